// One process from its start to the end of the first step: run by the suite, which knows when it started the process.
//   node bench/gpu/first-step.mjs --model llama3-8b --case 8x2048:minimum --started MS
import { parseArgs } from "node:util";
import { load, result } from "./lib.mjs";
import { randomModel } from "./model.mjs";
import { parseCase, shapeOf } from "./shapes.mjs";
import { optimizerOf, randomBatch, runnerOf } from "./step.mjs";

const { CudaBackend } = await load("backends/cuda/index.js");
const { getPeftModel } = await load("peft/index.js");

const { values: flags } = parseArgs({
  options: {
    model: { type: "string", default: "llama3-8b" },
    case: { type: "string", default: "8x2048:minimum" },
    layers: { type: "string" },
    started: { type: "string", default: String(Date.now()) },
    label: { type: "string", default: "" },
  },
});
const since = () => (Date.now() - Number(flags.started)) / 1000;
const marks = { imported: since() };
const backend = new CudaBackend({ computeDtype: "bf16" });
marks.deviceOpen = since();
const model = randomModel(backend, shapeOf(flags.model, flags.layers && Number(flags.layers)));
const optimizer = optimizerOf(await getPeftModel(model, { r: 16, loraAlpha: 16 }));
marks.modelMade = since();
const one = parseCase(flags.case);
const data = randomBatch(one, model.config.vocabSize);
const runner = runnerOf(one, model, optimizer);
runner.program("train", one.batch * one.length);
marks.planned = since();
await runner.train(data, 1 / data.numTargets, new Uint32Array(2));
await optimizer.update(1e-4, 1);
marks.firstStep = since();
result("first step", { who: `this project${flags.label}`, model: flags.model, case: flags.case, seconds: marks });
backend.dispose();
