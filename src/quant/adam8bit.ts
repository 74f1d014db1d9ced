/** Layout of bitsandbytes' blockwise 8-bit AdamW state (Dettmers et al. 2022). The arithmetic is the kernel's. */

/** Elements that share a scale. */
export const ADAM8BIT_BLOCK_SIZE = 256;

/** Tensors with fewer elements keep 32-bit states (bitsandbytes' min_8bit_size). */
export const ADAM8BIT_MIN_ELEMENTS = 4096;

export interface Adam8bitOptions {
  /** Embeddings keep 32-bit states too: their rows get rare, large gradients. */
  isEmbedding?: boolean;
  minElements?: number;
}

/** Whether the moments of a tensor of n elements are kept in 8 bits. */
export function usesAdam8bit(n: number, options: Adam8bitOptions = {}): boolean {
  return !options.isEmbedding && n >= (options.minElements ?? ADAM8BIT_MIN_ELEMENTS);
}

/** Elements of each buffer of the 8-bit state of a tensor of n elements: u8 codes [n] and f32 scales [⌈n/256⌉], twice. */
export interface Adam8bitSizes {
  /** First moment; codes of `SIGNED_DYNAMIC_MAP`. */
  state1: number;
  absmax1: number;
  /** Second moment; codes of `UNSIGNED_DYNAMIC_MAP`. */
  state2: number;
  absmax2: number;
}

export function adam8bitSizes(n: number): Adam8bitSizes {
  const blocks = Math.ceil(n / ADAM8BIT_BLOCK_SIZE);
  return { state1: n, absmax1: blocks, state2: n, absmax2: blocks };
}

/**
 * The state before the first step. As in bitsandbytes every byte is 0: code 0 of the signed map is not zero, but its
 * block's scale is.
 */
export function zeroAdam8bitState(n: number) {
  const sizes = adam8bitSizes(n);
  return {
    state1: new Uint8Array(sizes.state1),
    absmax1: new Float32Array(sizes.absmax1),
    state2: new Uint8Array(sizes.state2),
    absmax2: new Float32Array(sizes.absmax2),
  };
}

/** Moments as f32: map[code]·absmax of the block. */
export function decodeAdam8bit(codes: Uint8Array, absmax: Float32Array, map: Readonly<Float32Array>): Float32Array {
  return Float32Array.from(codes, (code, i) => map[code]! * absmax[Math.floor(i / ADAM8BIT_BLOCK_SIZE)]!);
}
