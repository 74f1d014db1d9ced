// QLoRA step at Llama-3-8B's shapes with random weights, on one GPU: npm run bench:gpu
//   node bench/gpu.mjs [--case 8x2048:budget] … [--layers 32] [--steps 5] [--warmup 3] [--peft PYTHON] [--table 24]
// A case is BATCHxLENGTH:POLICY, the policy budget, minimum, recompute or keep, with +offload, +trained=SHARE (of each row's
// tokens, the last ones, have a label) and +table (time of each kind of kernel). Cases with less memory go first, since the
// peak never falls. Prints one line of JSON a case; with OUT set, whole kernel tables go there too. --peft also times
// transformers + peft (bench/peft_gpu.py) on the last case with that interpreter, after this project's numbers.
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const dist = new URL("../dist/", import.meta.url);
const load = (path) => import(new URL(path, dist).href);
const { CudaBackend } = await load("backends/cuda/index.js");
const { long, int, float, pointer } = await load("backends/cuda/kernels.js");
const { parseConfig } = await load("models/family.js");
const { CausalLM } = await load("models/model.js");
const { parameterSpecs } = await load("models/parameters.js");
const { getPeftModel } = await load("peft/index.js");
const { Optimizer } = await load("optim/optimizer.js");
const { StepRunner } = await load("train/step.js");
const { collate } = await load("data/index.js");
const { SIGNED_DYNAMIC_MAP } = await load("quant/dynamic-maps.js");

const { values: flags } = parseArgs({
  options: {
    case: { type: "string", multiple: true, default: ["8x2048:budget+table"] },
    layers: { type: "string", default: "32" },
    steps: { type: "string", default: "5" },
    warmup: { type: "string", default: "3" },
    peft: { type: "string" },
    table: { type: "string", default: "24" },
  },
});
const [layers, steps, warmup] = [flags.layers, flags.steps, flags.warmup].map(Number);
const GIB = 2 ** 30;
const started = performance.now();
const seconds = () => ((performance.now() - started) / 1000).toFixed(1);

const hfConfig = {
  model_type: "llama",
  vocab_size: 128256,
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: layers,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  max_position_embeddings: 8192,
  tie_word_embeddings: false,
};

let state = 12345;
const random32 = () => {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return state >>> 0;
};
const noise = Uint32Array.from({ length: 2 ** 22 }, random32);

/** Random bytes over a part, 16 MiB of them again and again. */
function fillRandom(tensor, part, bytes) {
  const source = new Uint8Array(noise.buffer);
  for (let at = 0; at < bytes; at += source.length)
    tensor.write(source.subarray(0, Math.min(source.length, bytes - at)), { part, offset: at });
}

/** bf16 numbers of size about 0.02, from a buffer of them. */
const halves = new Uint16Array(2 ** 23);
{
  const one = new Float32Array(1);
  const bits = new Uint32Array(one.buffer);
  for (let i = 0; i < halves.length; i++) {
    one[0] = ((noise[i % noise.length] / 2 ** 32) * 2 - 1) * 0.035;
    halves[i] = bits[0] >>> 16;
  }
}

function randomModel(backend) {
  const { decoder } = parseConfig(hfConfig, "bench");
  const bytes = (x) => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);
  const parameters = new Map(
    parameterSpecs(decoder).map(({ name, shape, kind }) => {
      if (kind === "linear") {
        const tensor = backend.createTensor(name, "nf4", shape, { role: "weight", doubleQuant: true });
        fillRandom(tensor, "data", tensor.parts.get("data"));
        fillRandom(tensor, "absmax", tensor.parts.get("absmax"));
        tensor.write(bytes(new Float32Array(tensor.parts.get("nested") / 4).fill(0.005)), { part: "nested" });
        tensor.write(bytes(Float32Array.from(SIGNED_DYNAMIC_MAP)), { part: "map" });
        tensor.nestedOffset = 0.045;
        return [name, tensor];
      }
      if (kind === "norm") {
        const tensor = backend.createTensor(name, "f32", shape, { role: "weight" });
        tensor.write(bytes(new Float32Array(shape[0]).fill(1)));
        return [name, tensor];
      }
      const tensor = backend.createTensor(name, "bf16", shape, { role: "weight" });
      const source = bytes(halves);
      for (let at = 0; at < tensor.bytes; at += source.length)
        tensor.write(source.subarray(0, Math.min(source.length, tensor.bytes - at)), { offset: at });
      return [name, tensor];
    }),
  );
  return new CausalLM({ backend, config: decoder, hfConfig, parameters, nameOrPath: "random" });
}

/** Milliseconds of a command, the mean of `n` between two events. */
function timed(device, command, n = 20) {
  for (let i = 0; i < 3; i++) command();
  const { driver, stream } = device;
  const [from, to] = [driver.create("cuEventCreate", 0), driver.create("cuEventCreate", 0)];
  driver.call("cuEventRecord", from, stream);
  for (let i = 0; i < n; i++) command();
  driver.call("cuEventRecord", to, stream);
  device.synchronize();
  const elapsed = new Float32Array(1);
  driver.call("cuEventElapsedTime", elapsed, from, to);
  return elapsed[0] / n;
}

function kernelBench(backend) {
  const { device } = backend;
  const n = 14336 * 4096;
  const out = device.alloc(2 * n);
  // Three weights in turn: together they are larger than the cache.
  const weights = [0, 1, 2].map((i) => {
    const tensor = backend.createTensor(`w${i}`, "nf4", [14336, 4096], { role: "weight", doubleQuant: true });
    fillRandom(tensor, "data", tensor.parts.get("data"));
    return tensor;
  });
  const decode = (dtype, blocks) =>
    weights.map((w) =>
      device.prepare({
        file: "nf4",
        defines: { T: dtype, PITCHED: 0 },
        kernel: "nf4_decode",
        grid: [blocks],
        threads: 256,
        args: [
          long(n),
          ...["data", "absmax", "nested", "map"].map((part) => pointer(w.address(part))),
          float(0),
          int(6),
          int(4096),
          int(0),
          pointer(out),
        ],
      }),
    );
  const commands = decode("bf16", Math.ceil(n / 8192));
  let at = 0;
  const ms = timed(device, () => commands[at++ % 3](), 60);
  const bytes = n / 2 + n / 64 + 2 * n;
  const [a, b] = [device.alloc(GIB), device.alloc(GIB)];
  device.clear(a, GIB, 1);
  const copyMs = timed(device, () => device.copy(b, a, GIB));
  const [m, k] = [16384, 4096];
  const x = device.alloc(2 * m * k);
  const y = device.alloc(2 * m * 14336);
  for (const [address, size] of [
    [x, 2 * m * k],
    [out, 2 * n],
  ])
    for (let offset = 0; offset < size; offset += halves.byteLength)
      device.upload(address + offset, new Uint8Array(halves.buffer, 0, Math.min(halves.byteLength, size - offset)));
  const product = {
    m,
    n: 14336,
    k,
    transA: false,
    transB: true,
    input: "bf16",
    output: "bf16",
    lda: k,
    ldb: k,
    ldc: 14336,
  };
  const productMs = timed(device, device.product(product, { a: x, b: out, c: y, d: y, alpha: 1, beta: 0 }));
  for (const address of [out, a, b, x, y]) device.free(address);
  for (const w of weights) w.dispose();
  const copyRate = (2 * GIB) / copyMs / 1e6;
  return {
    nf4DecodeMs: ms,
    nf4DecodeGBs: bytes / ms / 1e6,
    copyGBs: copyRate,
    nf4DecodeShareOfCopy: bytes / ms / 1e6 / copyRate,
    productTflops: (2 * m * k * 14336) / productMs / 1e9,
  };
}

const backend = new CudaBackend({ computeDtype: "bf16" });
console.log(`${backend.description}; driver ${backend.device.driver.version}, cuBLASLt ${backend.device.lt.version}`);
const kernels = kernelBench(backend);
console.log(JSON.stringify(kernels));
backend.device.peak = backend.device.allocated;

const model = randomModel(backend);
console.log(`${seconds()} s: ${(model.parameterBytes / GIB).toFixed(2)} GiB of weights made`);
const peft = await getPeftModel(model, { r: 16, loraAlpha: 16 });
const options = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: true };
const optimizer = new Optimizer(backend, peft.trainable(), options);
console.log(`${seconds()} s: adapter and optimizer made`);

const gib = (bytes) => `${(bytes / GIB).toFixed(2)} GiB`;

/** "8x2048:minimum+offload+trained=0.3" */
function parseCase(text) {
  const [shape, ...rest] = text.split(":");
  const [policy = "budget", ...extras] = (rest[0] ?? "budget").split("+");
  const [batch, length] = shape.split("x").map(Number);
  const share = extras.find((extra) => extra.startsWith("trained="));
  const trained = share ? Number(share.slice("trained=".length)) : 1;
  if (!(batch > 0 && length > 0 && trained >= 0 && trained <= 1))
    throw new Error(`--case ${text}: see the top of this file`);
  return { text, batch, length, policy, offload: extras.includes("offload"), trained, table: extras.includes("table") };
}

/** Lines of time, rate and traffic for each kind of step, the longest first; the run is not captured for it. */
async function kernelTable(program, data) {
  const table = new Map();
  const executable = backend.compile(program);
  const { inputIds: ids, positions, seqStart, seqEnd, labels } = data;
  const lossScale = Float32Array.of(1 / data.numTargets);
  const all = { ids, positions, seqStart, seqEnd, labels, lossScale, seed: new Uint32Array(2) };
  const inputs = Object.fromEntries([...program.inputs.keys()].map((name) => [name, all[name]]));
  const timings = new Float64Array(program.steps.length);
  await executable.execute(inputs);
  await executable.execute(inputs, { timings });
  program.steps.forEach((node, i) => {
    const { transA, transB } = node.attrs;
    const layout = `${transA ? "T" : "N"}${transB ? "T" : "N"}`;
    const shape =
      node.op.name === "matmul"
        ? ` ${node.inputs[1].dtype} ${layout} [${node.outputs[0].shape}]x${node.inputs[0].shape}`
        : "";
    const key = `${node.op.name}${shape}${node.recomputeOf ? " again" : ""}`;
    const cost = node.op.cost && !node.op.view ? node.op.cost(node) : { flops: 0, bytes: 0 };
    const row = table.get(key) ?? { key, count: 0, ms: 0, flops: 0, bytes: 0 };
    row.count++;
    row.ms += timings[i] / 1e6;
    row.flops += cost.flops;
    row.bytes += cost.bytes;
    table.set(key, row);
  });
  executable.dispose();
  return [...table.values()]
    .sort((a, b) => b.ms - a.ms)
    .map(
      ({ key, count, ms, flops, bytes }) =>
        `${ms.toFixed(2).padStart(9)} ms ${String(count).padStart(5)}x ${(flops / ms / 1e9).toFixed(0).padStart(5)} TFLOP/s ` +
        `${(bytes / ms / 1e6).toFixed(0).padStart(6)} GB/s  ${key}`,
    );
}

/** Time and memory of the steps of one case. */
async function measure({ text, batch, length, policy, offload, trained, table }) {
  const rows = Array.from({ length: batch }, () => {
    const inputIds = Int32Array.from({ length }, () => random32() % hfConfig.vocab_size);
    const prompt = Math.round((1 - trained) * length);
    return [{ inputIds, labels: inputIds.map((id, i) => (i < prompt ? -100 : id)) }];
  });
  const data = collate(rows, batch * length);
  const tokens = batch * length;
  const { free } = backend.device.driver.memory();
  const budget = { kind: "budget", bytes: Math.floor(0.94 * free) };
  const chosen = policy === "budget" ? budget : { kind: policy };
  const runner = new StepRunner({ model, optimizer, policy: chosen, offload, maxPositions: length });
  const program = runner.program("train", tokens);
  const { kept, recomputed, offloaded } = program.checkpointing();
  console.log(
    `${seconds()} s: ${text}: planned ${program.steps.length} steps, arena ${gib(program.arenaBytes)}; kept ${kept.count} ` +
      `(${gib(kept.bytes)}), recomputed ${recomputed.count} (${gib(recomputed.bytes)}), offloaded ${offloaded.count} (${gib(offloaded.bytes)})`,
  );
  backend.device.peak = backend.device.allocated;
  const times = [];
  let updateMs = 0;
  let loss = 0;
  for (let step = 0; step < steps + warmup; step++) {
    const from = performance.now();
    ({ loss } = await runner.train(data, 1 / data.numTargets, Uint32Array.of(step, 0)));
    const between = performance.now();
    await optimizer.update(1e-4, 1);
    times.push(performance.now() - from);
    updateMs = performance.now() - between;
    if (step < warmup)
      console.log(`${seconds()} s: warm-up step ${step}: ${times[step].toFixed(0)} ms, loss ${loss.toFixed(4)}`);
  }
  const sorted = times.slice(warmup).sort((a, b) => a - b);
  const median = sorted[sorted.length >> 1];
  const { free: left, total } = backend.device.driver.memory();
  const peakGiB = backend.memory().peak / GIB;
  const lines = table ? await kernelTable(program, data) : [];
  if (table) console.log(lines.slice(0, Number(flags.table)).join("\n"));
  const result = {
    case: text,
    layers,
    medianMs: median,
    stepsMs: times,
    updateMs,
    tokensPerSecond: (tokens / median) * 1000,
    loss,
    arenaGiB: program.arenaBytes / GIB,
    hostGiB: program.hostBytes / GIB,
    peakGiB,
    usedGiB: (total - left) / GIB,
    kernels,
  };
  console.log(JSON.stringify(result));
  const name = `bench-gpu-${text.replace(/[^\w.=-]+/g, "-")}`;
  if (process.env.OUT)
    writeFileSync(join(process.env.OUT, `${name}.txt`), `${lines.join("\n")}\n${JSON.stringify(result)}\n`);
  runner.dispose();
}

const cases = flags.case.map(parseCase);
for (const each of cases) await measure(each);
optimizer.dispose();
backend.dispose();

if (flags.peft) {
  const { batch, length } = cases.at(-1);
  const script = join(import.meta.dirname, "peft_gpu.py");
  const shape = ["--batch", String(batch), "--length", String(length), "--layers", String(layers)];
  spawnSync(flags.peft, [script, ...shape], { stdio: "inherit" });
}
