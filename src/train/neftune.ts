import type { Batch } from "../data/collate.ts";
import { Rng } from "../util/rng.ts";

/**
 * NEFTune's noise (Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", 2023): U(−1, 1)·α/√(L·d) for
 * each of the d numbers of a token's embedding, L the length of the token's own sequence; none for padding.
 *
 * Drawn on the host from (seed, draw), so that a resumed step draws the same; it costs an upload of the embeddings' size.
 *
 * @returns [T, d]
 */
export function neftuneNoise(batch: Batch, width: number, alpha: number, [seed, draw]: Uint32Array): Float32Array {
  const { seqStart, seqEnd, numTokens } = batch;
  const noise = new Float32Array(batch.inputIds.length * width);
  const bits = new Uint32Array(numTokens * width);
  new Rng(seed! * 2 ** 21 + (draw! % 2 ** 21)).fillUint32(bits);
  for (let t = 0; t < numTokens; t++) {
    const amplitude = alpha / Math.sqrt((seqEnd[t]! - seqStart[t]!) * width);
    // 2^31 steps of 2^−31 around zero, without zero itself: symmetric, and open at both ends.
    for (let i = t * width; i < (t + 1) * width; i++) noise[i] = amplitude * ((bits[i]! + 0.5) / 2 ** 31 - 1);
  }
  return noise;
}
