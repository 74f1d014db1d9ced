// Attention's CUDA kernels alone, forward and backward, at the shapes models have:
//   node bench/attention_gpu.mjs [--torch PYTHON] [--only TEXT]
// Prints milliseconds, TFLOP/s of the visible pairs (4 operations forward and 10 backward for each pair and element of a
// head: what is computed twice is not counted) and their share of what cuBLASLt reaches on an H100. --torch also times
// PyTorch's scaled_dot_product_attention (bench/attention_gpu.py) with that interpreter.
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const dist = new URL("../dist/", import.meta.url);
const load = (path) => import(new URL(path, dist).href);
const { CudaBackend } = await load("backends/cuda/index.js");
const { LOWER_ATTENTION } = await load("backends/cuda/lower-attention.js");
const { Graph } = await load("graph/graph.js");
const { attentionGradOp, attentionOp } = await load("ops/attention.js");

const { values: flags } = parseArgs({
  options: {
    torch: { type: "string" },
    only: { type: "string", default: "" },
    times: { type: "string", default: "10" },
  },
});
/** TFLOP/s of a large bf16 product through cuBLASLt on an H100 (bench/gpu.mjs). */
const PEAK = 780;
const repeat = (n, length) => Array.from({ length: n }, () => length);
const llama = { heads: 32, kvHeads: 8, headDim: 128 };
/** Lengths of chat samples packed into 16,384 tokens: 37 to 2,011, one long. */
const ragged = [2011, 37, 410, 999, 128, 64, 1530, 701, 83, 1200, 342, 4096, 55, 617, 1811, 203, 940, 505, 652];
const CASES = {
  "Llama-3 8x2048": { ...llama, lengths: repeat(8, 2048) },
  "Llama-3 1x16384": { ...llama, lengths: [16384] },
  "Qwen2-7B 8x2048": { heads: 28, kvHeads: 4, headDim: 128, lengths: repeat(8, 2048) },
  "Gemma-2-9B 8x2048, soft-cap": {
    heads: 16, kvHeads: 8, headDim: 256, softcap: 50, window: 4096, lengths: repeat(8, 2048),
  }, // biome-ignore format: one line of shape
  "head size 64, 8x2048": { heads: 32, kvHeads: 8, headDim: 64, lengths: repeat(8, 2048) },
  "packed, 37 to 4096": { ...llama, lengths: ragged },
  "window 1024, 1x16384": { ...llama, window: 1024, lengths: [16384] },
  "1x81920": { ...llama, lengths: [81920] },
};

const backend = new CudaBackend({ computeDtype: "bf16" });
const { device } = backend;
console.log(backend.description);

function randomBf16(count, seed) {
  const bits = new Uint16Array(Math.min(count, 2 ** 22));
  const one = new Float32Array(1);
  const word = new Uint32Array(one.buffer);
  let state = seed;
  for (let i = 0; i < bits.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    one[0] = (state / 2 ** 32 - 0.5) * 2;
    bits[i] = word[0] >>> 16;
  }
  const address = device.alloc(2 * count);
  const bytes = new Uint8Array(bits.buffer);
  for (let at = 0; at < 2 * count; at += bytes.length)
    device.upload(address + at, bytes.subarray(0, Math.min(bytes.length, 2 * count - at)));
  return address;
}

/** Median milliseconds of a list of commands run one after another. */
function timed(commands) {
  const { driver, stream } = device;
  const run = () => {
    for (const command of commands) command();
  };
  run();
  run();
  const times = [];
  for (let i = 0; i < Number(flags.times); i++) {
    const [from, to] = [driver.create("cuEventCreate", 0), driver.create("cuEventCreate", 0)];
    driver.call("cuEventRecord", from, stream);
    run();
    driver.call("cuEventRecord", to, stream);
    device.synchronize();
    const elapsed = new Float32Array(1);
    driver.call("cuEventElapsedTime", elapsed, from, to);
    times.push(elapsed[0]);
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}

function bench(label, { lengths, heads, kvHeads, headDim, window = 0, softcap = 0 }) {
  const tokens = lengths.reduce((a, b) => a + b, 0);
  const pairs = lengths.reduce((sum, n) => {
    const w = window > 0 ? Math.min(window, n) : n;
    return sum + (w * (w + 1)) / 2 + (n - w) * w;
  }, 0);
  const graph = new Graph();
  const [wide, narrow] = [heads * headDim, kvHeads * headDim];
  const input = (name, dtype, shape) => graph.input(name, dtype, shape);
  const [q, k, v] = [
    input("q", "bf16", [tokens, wide]),
    input("k", "bf16", [tokens, narrow]),
    input("v", "bf16", [tokens, narrow]),
  ];
  const [seqStart, seqEnd] = [input("seqStart", "i32", [tokens]), input("seqEnd", "i32", [tokens])];
  const attrs = { heads, kvHeads, headDim, scale: headDim ** -0.5, window, softcap, causal: true };
  const [o, lse] = graph.apply(attentionOp, [q, k, v, seqStart, seqEnd], attrs);
  const dout = input("dout", "bf16", [tokens, wide]);
  const grads = graph.apply(attentionGradOp, [q, k, v, seqStart, seqEnd, o, lse, dout], attrs);
  const addresses = new Map(
    [
      [q, 1],
      [k, 2],
      [v, 3],
      [dout, 4],
    ].map(([value, seed]) => [value, randomBf16(value.bytes / 2, seed)]),
  );
  const [start, end] = [new Int32Array(tokens), new Int32Array(tokens)];
  lengths.reduce((at, n) => {
    start.fill(at, at, at + n);
    end.fill(at + n, at, at + n);
    return at + n;
  }, 0);
  for (const [value, data] of [
    [seqStart, start],
    [seqEnd, end],
  ]) {
    addresses.set(value, device.alloc(data.byteLength));
    device.upload(addresses.get(value), new Uint8Array(data.buffer));
  }
  for (const value of [o, lse, ...grads]) addresses.set(value, device.alloc(value.bytes));
  const scratch = [];
  const commandsOf = (node) => {
    const commands = [];
    LOWER_ATTENTION[node.op.name](node, {
      multiprocessors: device.info.multiprocessors,
      computeCapability: device.info.computeCapability,
      address: (value) => addresses.get(value) ?? 0,
      scratch(bytes) {
        scratch.push(device.alloc(bytes));
        return scratch.at(-1);
      },
      launch: (launch) => commands.push(device.prepare(launch)),
    });
    return commands;
  };
  const [forward, backward] = graph.nodes.map(commandsOf);
  const flops = 4 * pairs * heads * headDim;
  const result = { label, tokens, heads, kvHeads, headDim, window, softcap };
  result.forwardMs = timed(forward);
  result.backwardMs = timed(backward);
  result.backwardParts = backward.map((command) => timed([command]));
  result.forwardTflops = flops / result.forwardMs / 1e9;
  result.backwardTflops = (2.5 * flops) / result.backwardMs / 1e9;
  for (const address of [...addresses.values(), ...scratch]) device.free(address);
  const part = (ms, tflops) =>
    `${ms.toFixed(3).padStart(9)} ms ${tflops.toFixed(0).padStart(4)} TFLOP/s ${((100 * tflops) / PEAK).toFixed(0).padStart(3)}%`;
  const parts = result.backwardParts.map((ms) => ms.toFixed(3)).join(" + ");
  console.log(
    `${label.padEnd(30)}${part(result.forwardMs, result.forwardTflops)}   |${part(result.backwardMs, result.backwardTflops)}  (${parts})`,
  );
  return result;
}

const results = Object.entries(CASES)
  .filter(([label]) => label.includes(flags.only))
  .map(([label, spec]) => bench(label, spec));
backend.dispose();
if (process.env.OUT)
  writeFileSync(join(process.env.OUT, "attention-gpu.json"), `${JSON.stringify(results, null, 1)}\n`);
if (flags.torch) spawnSync(flags.torch, [join(import.meta.dirname, "attention_gpu.py")], { stdio: "inherit" });
