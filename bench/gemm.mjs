// Matrix products at SmolLM2-135M training shapes: GFLOP/s, share of the machine's peak, and ratio to OpenBLAS.
//
//   node --import tsx bench/gemm.mjs [--isa avx2] [--threads 1,2] [--only NT,NN] [--types f32,nf4] [--lora 16]
//                                    [--rounds 3] [--python PYTHON] [--wasm]
//
// PYTHON needs numpy and threadpoolctl; without it there is no ratio. The two sides take turns, shape by shape, and each
// figure is the best of all rounds, so that a busy neighbour disturbs both alike. One thread is timed by the processor
// time of the process, which leaves out what neighbours take; more threads by the clock. Needs `npm run build`.
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { loadNative } from "../src/backends/cpu/native.ts";
import { encodeInstruction } from "../src/backends/cpu/runtime.ts";
import { loadWasm } from "../src/backends/cpu/wasm.ts";

const { values: options } = parseArgs({
  options: {
    isa: { type: "string" },
    wasm: { type: "boolean" },
    addon: { type: "string" },
    threads: { type: "string", default: "1,2" },
    only: { type: "string", default: "NT,NN,TN" },
    types: { type: "string", default: "f32,bf16,nf4" },
    lora: { type: "string", default: "0" },
    rounds: { type: "string", default: "3" },
    seconds: { type: "string", default: "0.25" },
    python: { type: "string" },
  },
});
const SECONDS = Number(options.seconds);
const TYPES = { f32: 0, bf16: 1, f16: 2, nf4: 3 };
// Tokens, inputs and outputs of a linear layer. NT is x·Wᵀ, NN is dy·W, TN is dyᵀ·x (dW of full fine-tuning).
const LAYERS = [
  [2048, 576, 576],
  [2048, 576, 192],
  [2048, 576, 1536],
  [2048, 1536, 576],
  [512, 576, 49152],
];

/** The product of one kind for a layer: sizes, and where A and B are transposed. */
function product(kind, [tokens, inputs, outputs]) {
  if (kind === "NT") return { M: tokens, N: outputs, K: inputs, transA: 0, transB: 1 };
  if (kind === "NN") return { M: tokens, N: inputs, K: outputs, transA: 0, transB: 0 };
  return { M: outputs, N: inputs, K: tokens, transA: 1, transB: 0 };
}

const flops = ({ M, N, K }) => 2 * M * N * K;

/** GFLOP/s of independent fused multiply-adds on n cores at once, measured by a small program compiled here. */
async function measurePeak(n) {
  const folder = mkdtempSync(join(tmpdir(), "peak-"));
  try {
    const program = join(folder, "peak");
    execFileSync("c++", ["-O2", "-march=native", join(import.meta.dirname, "peak.cc"), "-o", program]);
    const one = () =>
      new Promise((resolve, reject) => {
        const child = spawn(program, [], { stdio: ["ignore", "pipe", "inherit"] });
        child.stdout.on("data", (text) => resolve(Number(text)));
        child.on("error", reject);
      });
    const all = await Promise.all(Array.from({ length: n }, one));
    return all.reduce((a, b) => a + b, 0);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The rival: bench/openblas_gemm.py, one request and one answer a line. */
function openblas(python) {
  const { OPENBLAS_CORETYPE, OPENBLAS_L2_SIZE, ...env } = process.env; // it shall pick its own best kernel
  const child = spawn(python, [join(import.meta.dirname, "openblas_gemm.py")], {
    env,
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => JSON.parse((await lines.next()).value);
  return {
    hello: next,
    time: (request) => {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      return next();
    },
    close: () => child.stdin.end(),
  };
}

const NOISE = new Uint8Array(Float32Array.from({ length: 2 ** 20 }, () => Math.random() - 0.5).buffer);

/** Fills n floats with random numbers (the same ones every 2^20). */
function fill(runtime, address, n) {
  for (let at = 0; at < 4 * n; at += NOISE.length) {
    const bytes = Math.min(NOISE.length, 4 * n - at);
    runtime.bytes(address + at, bytes).set(NOISE.subarray(0, bytes));
  }
}

/** A program with the one product, on memory of its own. */
function prepare(runtime, p, type, lora) {
  const owned = [];
  const floats = (n) => {
    const address = runtime.alloc(4 * n);
    owned.push(address);
    fill(runtime, address, n);
    return address;
  };
  const { M, N, K, transA, transB } = p;
  const lda = transA ? M : K;
  const ldb = transB ? K : N;
  const weight = [TYPES[type], floats(N * K), floats(Math.ceil((N * K) / 64)), 0, 0, 0, 64];
  const second = [lora, floats(M * lora), transA ? M : lora, floats(N * lora), transB ? lora : N, 2];
  const args = [M, N, K, floats(M * K), lda, transA, ...weight, ldb, transB, floats(M * N), N, 0, 0, 1, ...second];
  const workspace = runtime.alloc(runtime.workspace("matmul", args));
  const words = encodeInstruction(runtime, "matmul", args, workspace);
  const program = runtime.alloc(words.byteLength);
  owned.push(workspace, program);
  runtime.bytes(program, words.byteLength).set(new Uint8Array(words.buffer));
  const timings = new Float64Array(1);
  return {
    time() {
      let best = Infinity;
      const end = performance.now() + 1000 * SECONDS;
      for (let n = 0; n < 4 || performance.now() < end; n++) {
        const before = process.cpuUsage();
        runtime.runSync(program, words.length, { timings });
        const { user, system } = process.cpuUsage(before);
        best = Math.min(best, runtime.threads === 1 ? (user + system) / 1e6 : timings[0] / 1e9);
      }
      return best;
    },
    free: () => owned.forEach((address) => runtime.free(address)),
  };
}

const threadCounts = options.threads.split(",").map(Number);
const types = options.types.split(",");
const lora = Number(options.lora);
const threads = Math.max(...threadCounts);
const runtime = options.wasm
  ? await loadWasm({ threads })
  : loadNative({ isa: options.isa, file: options.addon, threads });
const peaks = new Map();
for (const threads of threadCounts) peaks.set(threads, await measurePeak(threads));
const rival = options.python ? openblas(options.python) : undefined;
console.log(`${runtime.kind} ${runtime.isa}${rival ? `, rival: ${(await rival.hello()).name}` : ""}`);
for (const [threads, peak] of peaks) console.log(`peak on ${threads} thread(s): ${peak.toFixed(1)} GFLOP/s`);
console.log("GFLOP/s (share of peak, ratio to OpenBLAS f32)");

for (const kind of options.only.split(",")) {
  for (const layer of LAYERS) {
    if (kind === "TN" && layer[2] > 10000) continue;
    const p = product(kind, layer);
    const cells = types
      .filter((type) => kind !== "TN" || type === "f32")
      .map((type) => ({ type, run: prepare(runtime, p, type, lora) }));
    for (const threads of threadCounts) {
      runtime.setThreads(threads);
      const best = new Map();
      const record = (name, seconds) => best.set(name, Math.max(best.get(name) ?? 0, flops(p) / seconds / 1e9));
      for (let round = 0; round < Number(options.rounds); round++) {
        for (const { type, run } of cells) record(type, run.time());
        if (rival) record("openblas", (await rival.time({ ...p, threads, seconds: SECONDS })).seconds);
      }
      const them = best.get("openblas");
      const show = ([name, rate]) =>
        `${name} ${rate.toFixed(1).padStart(5)} (${((100 * rate) / peaks.get(threads)).toFixed(0)}%${them && name !== "openblas" ? `, ${(rate / them).toFixed(2)}` : ""})`;
      console.log(`${kind} M ${p.M} N ${p.N} K ${p.K}, ${threads} thread(s): ${[...best].map(show).join("  ")}`);
    }
    for (const { run } of cells) run.free();
  }
}
rival?.close();
runtime.dispose();
