/** Attention and its gradients in float64 over packed sequences, each pair of tokens visited: what kernels are checked against. */

export interface AttentionShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly scale: number;
  /** 0: no limit. */
  readonly window: number;
  /** 0: none. */
  readonly softcap: number;
  readonly causal: boolean;
}

/** For each token where its sequence starts and ends. */
export function sequencesOf(lengths: readonly number[]): { seqStart: Int32Array; seqEnd: Int32Array } {
  const tokens = lengths.reduce((a, b) => a + b, 0);
  const [seqStart, seqEnd] = [new Int32Array(tokens), new Int32Array(tokens)];
  lengths.reduce((start, length) => {
    seqStart.fill(start, start, start + length);
    seqEnd.fill(start + length, start, start + length);
    return start + length;
  }, 0);
  return { seqStart, seqEnd };
}

type Rows = ArrayLike<number>;

/** Outputs o and, for the output's gradient `dout`, dq, dk and dv. Arrays are rows of tokens, [T, heads·headDim]. */
export function attentionReference(
  { q, k, v, dout }: Record<"q" | "k" | "v" | "dout", Rows>,
  { seqStart, seqEnd }: { seqStart: Int32Array; seqEnd: Int32Array },
  { heads, kvHeads, headDim, scale, window, softcap, causal }: AttentionShape,
): Record<"o" | "dq" | "dk" | "dv", Float64Array> {
  const [o, dq] = [new Float64Array(q.length), new Float64Array(q.length)];
  const [dk, dv] = [new Float64Array(k.length), new Float64Array(k.length)];
  const dot = (a: Rows, i: number, b: Rows, j: number): number => {
    let sum = 0;
    for (let d = 0; d < headDim; d++) sum += a[i + d]! * b[j + d]!;
    return sum;
  };
  const add = (y: Float64Array, j: number, weight: number, x: Rows, i: number): void => {
    for (let d = 0; d < headDim; d++) y[j + d]! += weight * x[i + d]!;
  };
  for (let t = 0; t < seqStart.length; t++) {
    const from = Math.max(seqStart[t]!, window > 0 ? t - window + 1 : 0);
    const keys = Array.from({ length: (causal ? t + 1 : seqEnd[t]!) - from }, (_, i) => from + i);
    for (let head = 0; head < heads; head++) {
      const at = (t * heads + head) * headDim;
      const keyAt = (s: number): number => (s * kvHeads + Math.floor((head * kvHeads) / heads)) * headDim;
      const logits = keys.map((s) => scale * dot(q, at, k, keyAt(s)));
      const capped = softcap > 0 ? logits.map((x) => softcap * Math.tanh(x / softcap)) : logits;
      const largest = Math.max(...capped);
      const weights = capped.map((x) => Math.exp(x - largest));
      const total = weights.reduce((a, b) => a + b, 0);
      const p = weights.map((weight) => weight / total);
      keys.forEach((s, i) => add(o, at, p[i]!, v, keyAt(s)));
      const delta = dot(o, at, dout, at);
      keys.forEach((s, i) => {
        const slope = softcap > 0 ? 1 - (capped[i]! / softcap) ** 2 : 1;
        const ds = p[i]! * (dot(dout, at, v, keyAt(s)) - delta) * slope * scale;
        add(dv, keyAt(s), p[i]!, dout, at);
        add(dq, at, ds, k, keyAt(s));
        add(dk, keyAt(s), ds, q, at);
      });
    }
  }
  return { o, dq, dk, dv };
}
