// The longest sequence whose step fits the memory given, by planning alone:
//   node bench/gpu/longest.mjs --model llama3-8b --gib 80 --host-gib 128
import { parseArgs } from "node:util";
import { GIB, load, result, seconds } from "./lib.mjs";
import { shapeOf } from "./shapes.mjs";
import { optimizerOf } from "./step.mjs";

const { SketchCudaBackend } = await load("backends/cuda/sketch.js");
const { getPeftModel } = await load("peft/index.js");
const { parseConfig } = await load("models/family.js");
const { CausalLM } = await load("models/model.js");
const { parameterSpecs } = await load("models/parameters.js");
const { StepRunner } = await load("train/step.js");

const { values: flags } = parseArgs({
  options: {
    model: { type: "string", default: "llama3-8b" },
    gib: { type: "string", default: "80" },
    "host-gib": { type: "string", default: "128" },
    layers: { type: "string" },
  },
});
const STEP = 4096;
const MOST = 2 ** 20;
/** What the driver's context and the library's workspace take on a card; an H100's, rounded up. */
const CONTEXT = 1.2 * GIB;

const hfConfig = { ...shapeOf(flags.model, flags.layers && Number(flags.layers)), max_position_embeddings: MOST };
const { decoder } = parseConfig(hfConfig, "bench");
const backend = new SketchCudaBackend({ computeDtype: "bf16" });
const parameters = new Map(
  parameterSpecs(decoder).map(({ name, shape, kind }) => {
    const dtype = kind === "linear" ? "nf4" : kind === "norm" || kind === "bias" ? "f32" : "bf16";
    return [name, backend.createTensor(name, dtype, shape, { role: "weight", doubleQuant: true })];
  }),
);
const model = new CausalLM({ backend, config: decoder, hfConfig, parameters, nameOrPath: "random" });
const optimizer = optimizerOf(await getPeftModel(model, { r: 16, loraAlpha: 16 }));
const { weight, adapter, gradient, optimizer: states } = backend.memory().tensors;
const fixed = weight + adapter + gradient + states + CONTEXT;

for (const offload of [false, true]) {
  const needed = (length) => {
    const host = { offload, hostBytes: Number(flags["host-gib"]) * GIB };
    const runner = new StepRunner({ model, optimizer, policy: { kind: "minimum" }, ...host, maxPositions: length });
    const { arenaBytes, hostBytes } = runner.program("train", length);
    runner.dispose();
    return { bytes: fixed + arenaBytes + 4 * length * decoder.headDim, hostBytes };
  };
  const limit = Number(flags.gib) * GIB;
  let [good, bad] = [0, MOST / STEP + 1];
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    if (needed(middle * STEP).bytes <= limit) good = middle;
    else bad = middle;
  }
  const length = good * STEP;
  const { bytes, hostBytes } = length > 0 ? needed(length) : { bytes: 0, hostBytes: 0 };
  console.log(`${seconds()} s: ${length} tokens${offload ? ", layer inputs offloaded" : ""}`);
  const numbers = { length, atLeast: length === MOST, planGiB: bytes / GIB, hostGiB: hostBytes / GIB };
  result("longest", { model: flags.model, gib: Number(flags.gib), offload, ...numbers });
}
