// Single kernels against the card: decoding of quantised weights, copies, products in every type.
import { copyRate, GIB, load, result, timed } from "./lib.mjs";

const { CudaBackend } = await load("backends/cuda/index.js");
const { decodeQuantized } = await load("backends/cuda/lowering.js");

const backend = new CudaBackend();
const { device, computeDtype } = backend;
const [rows, cols] = [14336, 4096];
const n = rows * cols;
const out = device.alloc(4 * n);
const noise = Uint32Array.from({ length: 2 ** 20 }, (_, i) => Math.imul(i + 1, 2654435761));
const pattern = new Uint8Array(noise.buffer);
const bandwidth = copyRate(device);
result("kernels", { kernel: "copy within the card", gigabytesPerSecond: bandwidth / 1e9, shareOfCopy: 1 });

for (const [dtype, doubleQuant] of [
  ["nf4", true],
  ["int8", false],
]) {
  // Three weights in turn: together they are larger than the cache.
  const weights = [0, 1, 2].map((i) => {
    const tensor = backend.createTensor(`w${i}`, dtype, [rows, cols], { role: "weight", doubleQuant });
    for (let at = 0; at < tensor.parts.get("data"); at += pattern.length)
      tensor.write(pattern.subarray(0, Math.min(pattern.length, tensor.parts.get("data") - at)), { offset: at });
    return tensor;
  });
  const commands = weights.flatMap((tensor) => {
    const list = [];
    decodeQuantized({ launch: (launch) => list.push(device.prepare(launch)) }, tensor, computeDtype, out);
    return list;
  });
  let at = 0;
  const ms = timed(device, () => commands[at++ % commands.length](), 60);
  const bytes = weights[0].bytes + 2 * n;
  const rate = (bytes / ms) * 1000;
  const numbers = { ms, gigabytesPerSecond: rate / 1e9, shareOfCopy: rate / bandwidth };
  result("kernels", { kernel: `decode ${dtype} [${rows}, ${cols}] to ${computeDtype}`, ...numbers });
  for (const tensor of weights) tensor.dispose();
}
device.free(out);

const [m, k] = [16384, cols];
const [x, w, y] = [4 * m * k, 4 * n, 4 * m * rows].map((bytes) => device.alloc(bytes));
const halves = Uint16Array.from({ length: 2 ** 20 }, (_, i) => 0x3c00 + (Math.imul(i, 2654435761) >>> 20));
for (const [address, bytes] of [
  [x, 4 * m * k],
  [w, 4 * n],
])
  for (let at = 0; at < bytes; at += halves.byteLength)
    device.upload(address + at, new Uint8Array(halves.buffer, 0, Math.min(halves.byteLength, bytes - at)));
for (const type of ["f32", "f16", "bf16"]) {
  const common = { m, n: rows, k, transA: false, transB: true, lda: k, ldb: k, ldc: rows };
  try {
    const product = device.product(
      { ...common, input: type, output: type },
      { a: x, b: w, c: y, d: y, alpha: 1, beta: 0 },
    );
    const ms = timed(device, product, type === "f32" ? 3 : 20);
    result("kernels", {
      kernel: `product [${m}, ${k}]·[${k}, ${rows}] in ${type}`,
      ms,
      teraflops: (2 * m * k * rows) / ms / 1e9,
    });
  } catch (error) {
    result("kernels", { kernel: `product in ${type}`, error: error.message });
  }
}
console.log(`workspaces and weights: ${(device.peak / GIB).toFixed(1)} GiB at most`);
backend.dispose();
