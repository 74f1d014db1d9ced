import type { Block, Pool } from "./liveness.ts";

/**
 * Offsets for blocks whose lifetimes are known: largest first, each at the lowest offset free for all of its life
 * (Pisarchyk & Lee 2020, "greedy by size"). Returns the offsets and the bytes the pool needs.
 */
export function packBlocks(blocks: readonly Block[], pool: Pool): { offsets: Map<Block, number>; bytes: number } {
  const order = blocks.filter((block) => block.pool === pool);
  order.sort((a, b) => b.bytes - a.bytes || a.start - b.start);
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
