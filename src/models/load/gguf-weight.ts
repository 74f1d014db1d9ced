import { GGML_TYPES } from "../../formats/ggml-types.ts";
import type { GgufFile, GgufTensorInfo } from "../../formats/gguf.ts";
import { dequantizeBlocks, isDequantizable } from "../../formats/gguf-quants.ts";
import { DTYPE_BYTES } from "../../graph/types.ts";
import type { DenseDType, DenseWeight, UnsupportedWeight } from "./source.ts";

/** What has to be undone of what llama.cpp's converter did to a weight. */
export interface GgufChanges {
  /** Rows of each head lie in the order of an interleaved rotation: [headDim]. */
  readonly interleavedHeads?: number | null;
  /** One was added to every number. */
  readonly plusOne?: boolean;
}

const PLAIN: Readonly<Partial<Record<string, DenseDType>>> = { F32: "f32", F16: "f16", BF16: "bf16" };

/** A GGUF tensor as a weight in Hugging Face's layout. Block-quantised types are decoded to f32. */
export function ggufWeight(
  file: GgufFile,
  info: GgufTensorInfo,
  changes: GgufChanges,
): DenseWeight | UnsupportedWeight {
  const { name, type, shape, byteLength: fileBytes } = info;
  if (!isDequantizable(type)) {
    const supported = `one of ${Object.keys(GGML_TYPES).filter((t) => isDequantizable(t as keyof typeof GGML_TYPES))}`;
    return { kind: "unsupported", name, shape, type, supported };
  }
  const plain = PLAIN[type];
  const { plusOne = false, interleavedHeads = null } = changes;
  const dtype = plain && !plusOne ? plain : "f32";
  const readRun = plain && !plusOne ? plainReader(file, name) : decodingReader(file, info, plusOne);
  const read = interleavedHeads ? rowOrderReader(readRun, shape, dtype, interleavedHeads) : readRun;
  return { kind: "dense", name, dtype, decoded: plain === undefined, shape, fileBytes, read };
}

/** Reads elements from byte `offset` (in the type given out) on. */
type Reader = (target: Uint8Array, offset: number) => void;

function plainReader(file: GgufFile, name: string): Reader {
  return (target, offset) => file.readIntoSync(name, target, offset, target.byteLength);
}

/** f32 from any type: the blocks that cover what is asked for are read and decoded. */
function decodingReader(file: GgufFile, { name, type }: GgufTensorInfo, plusOne: boolean): Reader {
  const { blockSize, blockBytes } = GGML_TYPES[type];
  return (target, offset) => {
    const first = offset / 4;
    const count = target.byteLength / 4;
    const firstBlock = Math.floor(first / blockSize);
    const blocks = Math.ceil((first + count) / blockSize) - firstBlock;
    const bytes = new Uint8Array(blocks * blockBytes);
    file.readIntoSync(name, bytes, firstBlock * blockBytes, bytes.byteLength);
    const values = new Float32Array(blocks * blockSize);
    dequantizeBlocks(type, bytes, values);
    if (plusOne) for (let i = 0; i < values.length; i++) values[i]! -= 1;
    const skip = first - firstBlock * blockSize;
    target.set(new Uint8Array(values.buffer, 4 * skip, 4 * count));
  };
}

/**
 * Rows in rotate-half order from rows in interleaved order. llama.cpp's converter moves row p·h + j of a head (p 0 or 1,
 * j < h = headDim/2) to 2j + p, so that its rotation pairs neighbours.
 */
function rowOrderReader(readRun: Reader, shape: readonly number[], dtype: DenseDType, headDim: number): Reader {
  const rowBytes = (shape.length === 1 ? 1 : shape[1]!) * DTYPE_BYTES[dtype];
  const half = headDim / 2;
  return (target, offset) => {
    for (let done = 0; done < target.byteLength; ) {
      const row = Math.floor((offset + done) / rowBytes);
      const column = offset + done - row * rowBytes;
      const length = Math.min(rowBytes - column, target.byteLength - done);
      const inHead = row % headDim;
      const interleaved = row - inHead + 2 * (inHead % half) + (inHead < half ? 0 : 1);
      readRun(target.subarray(done, done + length), interleaved * rowBytes + column);
      done += length;
    }
  };
}
