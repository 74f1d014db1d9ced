import { setImmediate as nextTurn } from "node:timers/promises";
import type { Backend, DeviceTensor, TensorOptions } from "../../backends/backend.ts";
import { densePieces } from "./convert.ts";
import { isDense } from "./dtypes.ts";
import type { Nf4Weight } from "./source.ts";
import type { StoredParameter } from "./storage.ts";

export interface LoadProgress {
  /** The parameter that was just loaded. */
  readonly parameter: string;
  /** Bytes read from the files so far, and in all. */
  readonly done: number;
  readonly total: number;
}

export interface FillOptions {
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Stops between pieces; the promise then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Make and fill a tensor for every parameter, in the given order, a piece at a time. On any error all of them are
 * disposed of. The event loop gets a turn after every piece, and after every weight that is quantised.
 */
export async function createParameters(
  backend: Backend,
  parameters: readonly StoredParameter[],
  options: FillOptions = {},
): Promise<Map<string, DeviceTensor>> {
  const tensors = new Map<string, DeviceTensor>();
  const total = parameters.reduce((sum, { weight }) => sum + weight.fileBytes, 0);
  let done = 0;
  const kept = tensorOptions(parameters);
  try {
    for (const [i, parameter] of parameters.entries()) {
      const { spec, dtype, weight } = parameter;
      const tensor = backend.createTensor(spec.name, dtype, spec.shape, kept[i]!);
      tensors.set(spec.name, tensor);
      await fill(backend, tensor, parameter, options.signal);
      done += weight.fileBytes;
      options.onProgress?.({ parameter: spec.name, done, total });
    }
    return tensors;
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    throw error;
  }
}

/** How the tensors of a whole model's parameters are made. */
export function tensorOptions(parameters: readonly StoredParameter[]): TensorOptions[] {
  const layers = parameters.map(({ spec }) => layerOf(spec.name));
  const last = Math.max(...layers);
  return parameters.map(({ quantization, host = false }, i) => {
    // Where products are in 8 bits, those of the first and the last layer lose more than others.
    const precise = layers[i] === 0 || layers[i] === last;
    return { role: "weight", host, precise, ...quantization };
  });
}

/** The layer that a parameter belongs to; −1: none. */
const layerOf = (name: string): number => Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? -1);

async function fill(
  backend: Backend,
  tensor: DeviceTensor,
  { weight, dtype }: StoredParameter,
  signal: AbortSignal | undefined,
): Promise<void> {
  const turn = async () => {
    await nextTurn();
    signal?.throwIfAborted();
  };
  if (weight.kind === "nf4") copyNf4(tensor, weight);
  else if (isDense(dtype)) {
    let offset = 0;
    for (const piece of densePieces(weight, dtype)) {
      tensor.write(piece, { offset });
      offset += piece.byteLength;
      await turn();
    }
  } else backend.quantize(tensor, weight.dtype, weight.read);
  await turn();
}

const COPY_BYTES = 4 * 2 ** 20;

/** The file's own bytes: quantising again would change them. */
function copyNf4(tensor: DeviceTensor, weight: Nf4Weight): void {
  const buffer = new Uint8Array(COPY_BYTES);
  for (const [part, { bytes, read }] of weight.parts) {
    for (let offset = 0; offset < bytes; offset += COPY_BYTES) {
      const piece = buffer.subarray(0, Math.min(COPY_BYTES, bytes - offset));
      read(piece, offset);
      tensor.write(piece, { part, offset });
    }
  }
  tensor.nestedOffset = weight.nestedOffset;
}
