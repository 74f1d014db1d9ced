import type { Block, Pool } from "./liveness.ts";

/** Where the blocks of a pool are. */
export interface Packing {
  readonly offsets: Map<Block, number>;
  /** Bytes the pool needs. */
  readonly bytes: number;
}

type Order = (a: Block, b: Block) => number;
const span = ({ start, end }: Block): number => end - start;
const ORDERS: readonly Order[] = [
  (a, b) => b.bytes - a.bytes || a.start - b.start,
  (a, b) => span(b) - span(a) || b.bytes - a.bytes,
  (a, b) => a.start - b.start || b.bytes - a.bytes,
  (a, b) => b.bytes * span(b) - a.bytes * span(a) || a.start - b.start,
];

/**
 * Offsets for blocks whose lifetimes are known: in some order, each at the lowest offset free for all of its life
 * (Pisarchyk & Lee 2020, "greedy by size"). Largest first is best nearly always; other orders are tried when it needs more
 * than `enough`, the bytes that are live at once, and `thorough` is set.
 */
export function packBlocks(blocks: readonly Block[], pool: Pool, enough = 0, thorough = false): Packing {
  let best: Packing | null = null;
  for (const order of thorough ? ORDERS : ORDERS.slice(0, 1)) {
    const packing = pack(blocks.filter((block) => block.pool === pool).sort(order));
    if (!best || packing.bytes < best.bytes) best = packing;
    if (best.bytes <= enough) break;
  }
  return best!;
}

function pack(order: readonly Block[]): Packing {
  const offsets = new Map<Block, number>();
  const placed: { block: Block; offset: number }[] = []; // by offset
  let bytes = 0;
  for (const block of order) {
    let offset = 0;
    let best = -1;
    let bestGap = Number.POSITIVE_INFINITY;
    for (const other of placed) {
      if (other.block.start > block.end || other.block.end < block.start) continue;
      const gap = other.offset - offset;
      if (gap >= block.bytes && gap < bestGap) [best, bestGap] = [offset, gap];
      offset = Math.max(offset, other.offset + other.block.bytes);
    }
    const chosen = best >= 0 ? best : offset;
    offsets.set(block, chosen);
    let at = placed.length;
    while (at > 0 && placed[at - 1]!.offset > chosen) at--;
    placed.splice(at, 0, { block, offset: chosen });
    bytes = Math.max(bytes, chosen + block.bytes);
  }
  return { offsets, bytes };
}
