import { apply1, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { expectSpec, floatType, matrix, required } from "./check.ts";

/** cache[slots[i]] = x[i]: keys or values of new tokens enter the cache. A negative slot is skipped. Inputs: x [n, d], slots i32[n], cache tensor [capacity, d] of any floating-point type. */
export const kvWriteOp: Op<Record<string, never>> = {
  name: "kv_write",
  infer(inputs) {
    const x = required("kv_write", "x", inputs, 0);
    const [n, d] = matrix("kv_write", "x", x);
    expectSpec("kv_write", "slots", required("kv_write", "slots", inputs, 1), "i32", [n]);
    const cache = required("kv_write", "cache", inputs, 2);
    expectSpec("kv_write", "cache", cache, floatType("kv_write", "cache", cache), [-1, d]);
    return [{ dtype: cache.dtype, shape: cache.shape }];
  },
  cost: (node) => ({ flops: 0, bytes: 2 * node.inputs[0]!.bytes }),
  inPlace: () => [[0, 2]],
};

/** The cache after writing; later reads must use the returned value. */
export const kvWrite = (cache: Value, x: Value, slots: Value): Value => apply1(kvWriteOp, [x, slots, cache], {});

type CachedAttrs = {
  heads: number;
  kvHeads: number;
  headDim: number;
  maxLength: number;
  scale: number;
  window: number;
  softcap: number;
};

/**
 * Attention of new tokens against a cache of `maxLength` rows a sequence: token i reads the first lengths[i] rows (the last
 * `window` of them) of sequence rows[i]. Inputs: q [n, heads·headDim], keys and values [sequences·maxLength, kvHeads·headDim],
 * rows i32[n], lengths i32[n]. Output: o, shape of q.
 */
export const attentionCachedOp: Op<CachedAttrs> = {
  name: "attention_cached",
  infer(inputs, { heads, kvHeads, headDim }) {
    const q = required("attention_cached", "q", inputs, 0);
    const [n] = matrix("attention_cached", "q", q);
    const dtype = floatType("attention_cached", "q", q);
    expectSpec("attention_cached", "q", q, dtype, [n, heads * headDim]);
    for (const [role, index] of [
      ["keys", 1],
      ["values", 2],
    ] as const) {
      const cache = required("attention_cached", role, inputs, index);
      expectSpec("attention_cached", role, cache, floatType("attention_cached", role, cache), [-1, kvHeads * headDim]);
    }
    for (const [role, index] of [
      ["rows", 3],
      ["lengths", 4],
    ] as const) {
      expectSpec("attention_cached", role, required("attention_cached", role, inputs, index), "i32", [n]);
    }
    return [{ dtype, shape: q.shape }];
  },
  cost: (node) => ({ flops: 0, bytes: node.inputs[1]!.bytes + node.inputs[2]!.bytes }),
};

/** Attention's output for new tokens, [n, heads·headDim]. */
export function attentionCached(
  q: Value,
  cache: { keys: Value; values: Value; rows: Value; lengths: Value },
  options: CachedAttrs,
): Value {
  return apply1(attentionCachedOp, [q, cache.keys, cache.values, cache.rows, cache.lengths], options);
}
