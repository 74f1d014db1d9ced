// Decoding at Llama-3-8B's shapes with random weights, on one GPU:
//   node bench/decode_gpu.mjs [--batch 1,16,64] [--prompt 128,2048] [--new 128] [--models nf4+lora,nf4,bf16] [--layers 32]
//                             [--table 0] [--overlap on|off] [--transformers PYTHON]
// Prints a line for each case: tokens/s while decoding (prefill apart), the time of a step, and its share of what memory
// bandwidth allows (all weights and the cache once a step, at 3.0 TB/s: what a copy reaches on an H100). The last line is
// JSON. --table: so many lines of kernel times for the first case of each model; --transformers: bench/decode_gpu.py with
// that interpreter afterwards. With OUT set, everything also goes there.
import { spawnSync } from "node:child_process";
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const dist = new URL("../dist/", import.meta.url);
const load = (path) => import(new URL(path, dist).href);
const { CudaBackend } = await load("backends/cuda/index.js");
const { parseConfig } = await load("models/family.js");
const { CausalLM } = await load("models/model.js");
const { parameterSpecs } = await load("models/parameters.js");
const { getPeftModel } = await load("peft/index.js");
const { DecodingSession, generateTokens } = await load("generate/index.js");
const { SIGNED_DYNAMIC_MAP } = await load("quant/dynamic-maps.js");

const { values: flags } = parseArgs({
  options: {
    batch: { type: "string", default: "1,16,64" },
    prompt: { type: "string", default: "128,2048" },
    new: { type: "string", default: "128" },
    models: { type: "string", default: "nf4+lora,nf4,bf16" },
    layers: { type: "string", default: "32" },
    table: { type: "string", default: "0" },
    overlap: { type: "string", default: "on" },
    transformers: { type: "string" },
  },
});
const numbers = (text) => text.split(",").map(Number);
const newTokens = Number(flags.new);
const BANDWIDTH = 3.0e12;

const hfConfig = {
  model_type: "llama",
  vocab_size: 128256,
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: Number(flags.layers),
  num_attention_heads: 32,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  max_position_embeddings: 8192,
  tie_word_embeddings: false,
};

function print(line) {
  console.log(line);
  if (process.env.OUT) appendFileSync(join(process.env.OUT, "decode.txt"), `${line}\n`);
}

let state = 12345;
const random32 = () => {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return state >>> 0;
};
const noise = Uint32Array.from({ length: 2 ** 22 }, random32);
/** bf16 numbers of size about 0.02. */
const halves = new Uint16Array(2 ** 23);
{
  const one = new Float32Array(1);
  const bits = new Uint32Array(one.buffer);
  for (let i = 0; i < halves.length; i++) {
    one[0] = ((noise[i % noise.length] / 2 ** 32) * 2 - 1) * 0.035;
    halves[i] = bits[0] >>> 16;
  }
}
const bytes = (x) => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);
function fill(tensor, source, part = "data") {
  const total = tensor.parts.get(part);
  for (let at = 0; at < total; at += source.length)
    tensor.write(source.subarray(0, Math.min(source.length, total - at)), { part, offset: at });
}

function randomModel(backend, quantised) {
  const { decoder } = parseConfig(hfConfig, "bench");
  const parameters = new Map(
    parameterSpecs(decoder).map(({ name, shape, kind }) => {
      if (kind === "linear" && quantised) {
        const tensor = backend.createTensor(name, "nf4", shape, { role: "weight", doubleQuant: true });
        fill(tensor, bytes(noise));
        fill(tensor, bytes(noise), "absmax");
        tensor.write(bytes(new Float32Array(tensor.parts.get("nested") / 4).fill(0.005)), { part: "nested" });
        tensor.write(bytes(Float32Array.from(SIGNED_DYNAMIC_MAP)), { part: "map" });
        tensor.nestedOffset = 0.045;
        return [name, tensor];
      }
      const norm = kind === "norm";
      const tensor = backend.createTensor(name, norm ? "f32" : "bf16", shape, { role: "weight" });
      if (norm) tensor.write(bytes(new Float32Array(shape[0]).fill(1)));
      else fill(tensor, bytes(halves));
      return [name, tensor];
    }),
  );
  return new CausalLM({ backend, config: decoder, hfConfig, parameters, nameOrPath: "random" });
}

/** Bytes of weights a step reads: all but the embedding table. */
const weightBytes = (model) =>
  [...model.parameters].reduce((sum, [name, { bytes }]) => sum + (name.includes("embed_tokens") ? 0 : bytes), 0);

/** Milliseconds of each kind of step of the decoding program, the longest first. */
async function kernelTable(session, lines) {
  const entry = [...session.programs.programs].find(([key]) => key.startsWith("decode 1"));
  const { program } = entry[1];
  const inputs = Object.fromEntries(
    [...program.inputs].map(([name, value]) => {
      const n = value.shape[0];
      if (name === "settings") return [name, Float32Array.of(0, 0, 1, 0, 1)];
      if (name.startsWith("draws")) return [name, new Uint32Array(n)];
      const kind = name.split(".")[0];
      const fills = { lengths: session.maxLength - 1, positions: session.maxLength - 2, slots: -1 };
      const row = kind === "rows" || kind === "drawRows";
      return [name, Int32Array.from({ length: n }, (_, i) => (row ? i : (fills[kind] ?? 1)))];
    }),
  );
  const timings = new Float64Array(program.steps.length);
  await entry[1].execute(inputs, { timings });
  await entry[1].execute(inputs, { timings });
  const table = new Map();
  program.steps.forEach((node, i) => {
    const wide = node.op.name.startsWith("matmul")
      ? ` ${node.inputs[1].dtype} ${node.outputs.map((o) => o.shape[1])}`
      : "";
    const key = `${node.op.name}${wide}`;
    const row = table.get(key) ?? { key, count: 0, us: 0 };
    row.count++;
    row.us += timings[i] / 1e3;
    table.set(key, row);
  });
  const rows = [...table.values()].sort((a, b) => b.us - a.us);
  print(`    ${rows.reduce((sum, { us }) => sum + us, 0).toFixed(0)} us of kernels, timed one by one`);
  for (const { key, count, us } of rows.slice(0, lines))
    print(
      `    ${us.toFixed(0).padStart(6)} us ${String(count).padStart(4)}x ${(us / count).toFixed(1).padStart(6)} us  ${key}`,
    );
}

const backend = new CudaBackend({ computeDtype: "bf16" });
print(`${backend.description}; driver ${backend.device.driver.version}`);
if (flags.overlap === "off") backend.device.overlapping = null;
const results = [];
for (const kind of flags.models.split(",")) {
  const model = randomModel(backend, kind.startsWith("nf4"));
  const peft = kind.endsWith("+lora") ? await getPeftModel(model, { r: 16, loraAlpha: 16 }) : null;
  const adapterBytes = peft ? peft.trainable().reduce((sum, { tensor }) => sum + tensor.bytes, 0) : 0;
  let tables = Number(flags.table);
  for (const prompt of numbers(flags.prompt)) {
    for (const batch of numbers(flags.batch)) {
      const prompts = Array.from({ length: batch }, () =>
        Array.from({ length: prompt }, () => random32() % hfConfig.vocab_size),
      );
      const session = new DecodingSession(model, batch, prompt + newTokens);
      const run = async (maxNewTokens) => {
        const from = performance.now();
        await generateTokens(session, prompts, { maxNewTokens, temperature: 0 });
        return performance.now() - from;
      };
      await run(12);
      await run(12);
      const prefillMs = await run(1);
      const totalMs = await run(newTokens);
      const stepMs = (totalMs - prefillMs) / (newTokens - 1);
      const cache = batch * (prompt + newTokens / 2) * 2 * 2 * 8 * 128 * hfConfig.num_hidden_layers;
      const read = weightBytes(model) + adapterBytes + cache;
      const result = {
        model: kind,
        prompt,
        batch,
        tokensPerSecond: (1000 * batch) / stepMs,
        stepMs,
        prefillMs,
        totalTokensPerSecond: (1000 * batch * newTokens) / totalMs,
        shareOfBandwidth: read / BANDWIDTH / (stepMs / 1000),
      };
      results.push(result);
      print(
        `${kind.padEnd(9)} prompt ${String(prompt).padStart(4)} batch ${String(batch).padStart(2)}: ` +
          `${result.tokensPerSecond.toFixed(0).padStart(6)} tokens/s, step ${stepMs.toFixed(3)} ms, ` +
          `${(100 * result.shareOfBandwidth).toFixed(0)}% of bandwidth, prefill ${prefillMs.toFixed(1)} ms`,
      );
      if (tables > 0) await kernelTable(session, tables);
      tables = 0;
      session.dispose();
    }
  }
  peft?.dispose();
  model.dispose();
}
backend.dispose();
print(JSON.stringify(results));

if (flags.transformers) {
  const script = join(import.meta.dirname, "decode_gpu.py");
  const args = ["--batch", flags.batch, "--prompt", flags.prompt, "--new", flags.new, "--layers", flags.layers];
  spawnSync(flags.transformers, [script, ...args], { stdio: "inherit" });
}
