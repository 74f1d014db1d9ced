/** What kept the GPU from being used, in words that say what to do about it. */
export class CudaError extends Error {
  override readonly name: string = "CudaError";
  /** CUDA's status; 0 when no call was made. */
  readonly status: number;
  constructor(message: string, status = 0) {
    super(message);
    this.status = status;
  }
}

/** No driver, no usable card, or a library that is missing. */
export class CudaUnavailableError extends CudaError {
  override readonly name = "CudaUnavailableError";
}

/** The card's memory is full. */
export class CudaOutOfMemoryError extends CudaError {
  override readonly name = "CudaOutOfMemoryError";
}

/**
 * The GPU's context is gone (a kernel failed, the card fell off the bus, its memory is damaged): nothing of this process can
 * use that card any more.
 */
export class CudaLostError extends CudaError {
  override readonly name = "CudaLostError";
}
