import type { FloatDType } from "../../graph/types.ts";
import type { Defines } from "./kernels.ts";

/** One tensor-core kernel: its source, names, how many rows a block has, threads, bytes of shared memory. */
export interface TileKernel {
  readonly file: string;
  readonly defines: Defines;
  readonly rows: number;
  readonly threads: number;
  readonly sharedBytes: number;
}

/** The kernels of one attention: dk and dv come from one launch, or from one each where heads are large. */
export interface TileKernels {
  readonly forward: TileKernel;
  readonly gradQ: TileKernel;
  readonly gradKv: readonly TileKernel[];
}

/** Names of attention_tiles.cuh. `blocks`: how many a multiprocessor should hold. */
interface Tiles {
  readonly warps: number;
  readonly pieces: number;
  readonly streamed: number;
  readonly stages: number;
  readonly blocks: number;
  /** Backward: left operands in registers. */
  readonly kept?: boolean;
  /** Backward: streamed rows at a time. */
  readonly sub?: number;
}

const KIB = 1024;
/** Shared memory that a block may have, by compute capability (CUDA C++ Programming Guide, technical specifications). */
export function sharedLimit(capability: number): number {
  if (capability < 80) return 64 * KIB;
  if (capability === 80 || capability === 87) return 163 * KIB;
  return capability >= 90 && capability < 120 ? 227 * KIB : 99 * KIB;
}
/** What a block has besides: the launch's own kibibyte, and a few words for spans. */
const BESIDES = 2 * KIB;

/** The first choice of which enough blocks fit on a multiprocessor, else the first that fits at all, else none. */
function fitting(choices: readonly Tiles[], bytes: (tiles: Tiles) => number, capability: number): Tiles | undefined {
  const room = sharedLimit(capability) + KIB;
  return (
    choices.find((tiles) => tiles.blocks * (bytes(tiles) + BESIDES) <= room) ??
    choices.find((tiles) => bytes(tiles) + BESIDES <= room)
  );
}

const FORWARD: readonly Tiles[] = [
  { warps: 4, pieces: 2, streamed: 64, stages: 2, blocks: 2 },
  { warps: 4, pieces: 2, streamed: 64, stages: 1, blocks: 2 },
  { warps: 4, pieces: 1, streamed: 64, stages: 1, blocks: 1 },
];
const FORWARD_LARGE: readonly Tiles[] = [
  { warps: 4, pieces: 1, streamed: 64, stages: 1, blocks: 2 },
  { warps: 4, pieces: 1, streamed: 32, stages: 1, blocks: 1 },
];
const BACKWARD: readonly Tiles[] = [
  { warps: 8, pieces: 1, streamed: 64, stages: 2, blocks: 1, kept: true },
  { warps: 4, pieces: 1, streamed: 64, stages: 2, blocks: 1, kept: true },
  { warps: 4, pieces: 1, streamed: 32, stages: 1, blocks: 1, kept: true },
];
/** dq of heads of 128, where two blocks of these fit: 32 queries a warp read a tile of keys half as often. */
const GRAD_Q_128: readonly Tiles[] = [{ warps: 4, pieces: 2, streamed: 32, stages: 2, blocks: 2 }, ...BACKWARD];
const BACKWARD_LARGE: readonly Tiles[] = [
  { warps: 8, pieces: 1, streamed: 32, stages: 2, blocks: 1 },
  { warps: 4, pieces: 1, streamed: 32, stages: 1, blocks: 1 },
  { warps: 4, pieces: 1, streamed: 16, stages: 1, blocks: 1, sub: 16 },
];
const LARGE = 128;

/**
 * Tensor-core kernels for heads of `headDim`; null where there are none: other types than bf16 (from Ampere) and f16 (from
 * Turing), head sizes that are no multiple of 16 or over 256 (over 128 on Turing).
 */
export function tileKernels(
  dtype: FloatDType,
  headDim: number,
  softcap: number,
  capability: number,
): TileKernels | null {
  if (dtype === "f32" || capability < (dtype === "bf16" ? 80 : 75)) return null;
  const large = headDim > LARGE;
  if (headDim % 16 !== 0 || headDim > 2 * LARGE || (large && capability < 80)) return null;
  const row = 2 * (headDim + 8);

  function kernel(
    file: string,
    choices: readonly Tiles[],
    names: Defines,
    bytes: (tiles: Tiles, rows: number) => number,
  ): TileKernel | null {
    const rowsOf = ({ warps, pieces }: Tiles): number => 16 * warps * pieces;
    const tiles = fitting(choices, (choice) => bytes(choice, rowsOf(choice)), capability);
    if (!tiles) return null;
    const { warps, pieces, streamed, stages, blocks } = tiles;
    const shape = { WARPS: warps, MT: pieces, BN: streamed, STAGES: stages, MIN_BLOCKS: blocks };
    const backward: Defines = file === "attention_forward" ? {} : { REGS: tiles.kept ? 1 : 0, SUB: tiles.sub ?? 32 };
    return {
      file,
      defines: { T: dtype, D: headDim, CAP: softcap > 0 ? 1 : 0, ...shape, ...backward, ...names },
      rows: rowsOf(tiles),
      threads: 32 * warps,
      sharedBytes: bytes(tiles, rowsOf(tiles)),
    };
  }

  const forward = kernel(
    "attention_forward",
    large ? FORWARD_LARGE : FORWARD,
    {},
    ({ streamed, stages }, rows) => (rows + 2 * stages * streamed) * row,
  );
  const gradQ = kernel(
    "attention_grad_q",
    large ? BACKWARD_LARGE : headDim === LARGE ? GRAD_Q_128 : BACKWARD,
    {},
    ({ streamed, stages, kept }, rows) => {
      const own = 2 * rows * row;
      const stream = 2 * stages * streamed * row;
      return kept ? Math.max(own, stream) : own + stream;
    },
  );
  // dk and dv of a head of more than 128 do not fit in a warp's registers together.
  const gradKv = (large ? [1, 2] : [0]).map((part) =>
    kernel(
      "attention_grad_kv",
      large ? BACKWARD_LARGE : BACKWARD,
      { PART: part, ...(large ? {} : { SUB: 16 }) },
      ({ streamed, stages, kept }, rows) => {
        const own = (part === 2 ? 1 : 2) * rows * row;
        const stream = stages * streamed * (2 * row + 8);
        return kept ? Math.max(own, stream) : own + stream;
      },
    ),
  );
  const found = gradKv.filter((each) => each !== null);
  return forward && gradQ && found.length === gradKv.length ? { forward, gradQ, gradKv: found } : null;
}
