/** Sampling's filters in float64, and by sorting: what the kernels are held against. */
import type { Sampling } from "../generate/sampling.ts";

/** What decides which tokens may come next, and how likely. */
export type Filters = Pick<Sampling, "temperature" | "topK" | "topP" | "minP">;

/** Logits with the penalty applied to every token already in the sequence, in place. */
export function penalizeRepetition(logits: Float32Array, seen: Iterable<number>, penalty: number): void {
  if (penalty === 1) return;
  for (const token of new Set(seen)) {
    const logit = logits[token]!;
    logits[token] = logit < 0 ? logit * penalty : logit / penalty;
  }
}

/** Candidates for the next token with their probabilities, most likely first. */
export interface Candidates {
  readonly tokens: Uint32Array;
  readonly probabilities: Float64Array;
}

/**
 * What is left after temperature, top-k, top-p and min-p, in that order and as transformers' warpers define each: top-p
 * keeps the smallest set that reaches the probability, min-p goes by the likeliest of what top-p left.
 */
export function candidates(logits: Float32Array, { temperature, topK, topP, minP }: Filters): Candidates {
  let tokens = topK > 0 && topK < logits.length ? largest(logits, topK) : sorted(logits);
  let probabilities = softmax(tokens, logits, temperature);
  if (topP < 1) {
    let total = 0;
    let keep = 0;
    // The token that crosses the threshold stays.
    while (keep < tokens.length && total < topP) total += probabilities[keep++]!;
    tokens = tokens.subarray(0, Math.max(1, keep));
    probabilities = softmax(tokens, logits, temperature);
  }
  if (minP > 0) {
    const floor = minP * probabilities[0]!;
    let keep = tokens.length;
    while (keep > 1 && probabilities[keep - 1]! < floor) keep--;
    tokens = tokens.subarray(0, keep);
    probabilities = softmax(tokens, logits, temperature);
  }
  return { tokens, probabilities };
}

/** Natural logarithm of a token's probability under softmax(logits / temperature). */
export function logProbability(logits: Float32Array, token: number, temperature: number): number {
  const top = logits[argmax(logits)]!;
  let total = 0;
  for (const logit of logits) total += Math.exp((logit - top) / temperature);
  return (logits[token]! - top) / temperature - Math.log(total);
}

/** Index of the largest element, the first of equals. */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

function sorted(logits: Float32Array): Uint32Array {
  const order = Uint32Array.from(logits, (_, i) => i);
  return order.sort((a, b) => logits[b]! - logits[a]! || a - b);
}

// The k-th largest by a bounded heap, then its members sorted. Ties at the edge stay, as in transformers.
function largest(logits: Float32Array, k: number): Uint32Array {
  const heap = logits.slice(0, k).sort();
  for (let i = k; i < logits.length; i++) {
    if (logits[i]! <= heap[0]!) continue;
    heap[0] = logits[i]!;
    for (let at = 0; ; ) {
      let child = 2 * at + 1;
      if (child + 1 < k && heap[child + 1]! < heap[child]!) child++;
      if (child >= k || heap[child]! >= heap[at]!) break;
      [heap[at], heap[child]] = [heap[child]!, heap[at]!];
      at = child;
    }
  }
  const threshold = heap[0]!;
  const kept: number[] = [];
  for (let i = 0; i < logits.length; i++) if (logits[i]! >= threshold) kept.push(i);
  return Uint32Array.from(kept.sort((a, b) => logits[b]! - logits[a]! || a - b));
}

function softmax(tokens: Uint32Array, logits: Float32Array, temperature: number): Float64Array {
  const top = logits[tokens[0]!]!;
  const weights = Float64Array.from(tokens, (token) => Math.exp((logits[token]! - top) / temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}
