// The least time a step could take with the parts that were measured on this card:
//   floor = products + attention + bytes / bandwidth
// products: the frozen layers' and the head's, each shape as one plain cuBLASLt product in the type of the activations
//   (q, k, v stacked; gate, up stacked), forward and by the input backward, nothing recomputed;
// attention: layers × the fastest forward and backward that was measured for this batch, here or by a rival;
// bytes: NF4 weights read twice, and what every other node that is not recomputed reads and writes once;
// bandwidth: of a copy within the card's memory.
import { copyRate, timed } from "./lib.mjs";
import { kindOf } from "./step.mjs";

/** Products so thin that reading their operands is what they cost. */
const LOW_RANK = new Set(["matmul_chain", "lora_grad"]);

/** Shapes of the frozen products of one layer: [outputs, inputs]. */
function layerProducts({ hiddenSize, intermediateSize, heads, kvHeads, headDim }) {
  return [
    [(heads + 2 * kvHeads) * headDim, hiddenSize],
    [hiddenSize, heads * headDim],
    [2 * intermediateSize, hiddenSize],
    [hiddenSize, intermediateSize],
  ];
}

/** Milliseconds of y = x·Wᵀ and dx = dy·W over `tokens` rows. */
function productMs(backend, tokens, [outputs, inputs]) {
  const { device, computeDtype } = backend;
  const size = computeDtype === "f32" ? 4 : 2;
  const [x, w, y] = [tokens * inputs, outputs * inputs, tokens * outputs].map((n) => device.alloc(size * n));
  // Zeros draw less power, and run faster, than numbers do.
  const some = Uint16Array.from({ length: 2 ** 20 }, (_, i) => 0x3c00 + ((i * 2654435761) >>> 20));
  const pattern = new Uint8Array(some.buffer);
  for (const [address, bytes] of [
    [x, size * tokens * inputs],
    [w, size * outputs * inputs],
    [y, size * tokens * outputs],
  ])
    for (let at = 0; at < bytes; at += pattern.length)
      device.upload(address + at, pattern.subarray(0, Math.min(pattern.length, bytes - at)));
  const common = { input: computeDtype, output: computeDtype, transA: false };
  const forward = { ...common, m: tokens, n: outputs, k: inputs, transB: true, lda: inputs, ldb: inputs, ldc: outputs };
  const back = { ...common, m: tokens, n: inputs, k: outputs, transB: false, lda: outputs, ldb: inputs, ldc: inputs };
  const ms = [
    timed(device, device.product(forward, { a: x, b: w, c: y, d: y, alpha: 1, beta: 0 }), 5),
    timed(device, device.product(back, { a: y, b: w, c: x, d: x, alpha: 1, beta: 0 }), 5),
  ];
  for (const address of [x, w, y]) device.free(address);
  return ms[0] + ms[1];
}

/** @param rivalAttentionMs forward and backward of one layer, the fastest that others were measured at; null: unknown */
export function floorOf(backend, config, program, times, { tokens, headTokens, rivalAttentionMs = null }) {
  const layers = layerProducts(config).reduce((sum, shape) => sum + productMs(backend, tokens, shape), 0);
  const head = productMs(backend, Math.min(headTokens, 8192), [config.vocabSize, config.hiddenSize]);
  const products = config.layers * layers + head * (headTokens / Math.min(headTokens, 8192));
  let [ownAttention, bytes] = [0, 0];
  for (const { node, ms } of times) {
    if (node.recomputeOf) continue;
    const kind = kindOf(node);
    if (kind === "attention") ownAttention += ms;
    else if ((kind === "elementwise" || LOW_RANK.has(node.op.name)) && node.op.cost && !node.op.view)
      bytes += node.op.cost(node).bytes;
  }
  const attention = Math.min(
    ownAttention,
    rivalAttentionMs === null ? Number.POSITIVE_INFINITY : rivalAttentionMs * config.layers,
  );
  const weights = new Set(program.steps.flatMap((node) => node.inputs.filter((value) => value?.dtype === "nf4")));
  for (const value of weights) bytes += 2 * value.bytes;
  const bandwidth = copyRate(backend.device);
  const traffic = (bytes / bandwidth) * 1000;
  return { products, attention, traffic, total: products + attention + traffic, bandwidthGBs: bandwidth / 1e9 };
}
