// Steps of one model: node bench/gpu/steps.mjs --model llama3-8b --case 8x2048:budget+table [--floor]
import { parseArgs } from "node:util";
import { floorOf } from "./floor.mjs";
import { gib, load, result, seconds, writeOut } from "./lib.mjs";
import { randomModel } from "./model.mjs";
import { parseCase, shapeOf } from "./shapes.mjs";
import { breakdown, kernelLines, measure, nodeTimes, optimizerOf } from "./step.mjs";

const { CudaBackend } = await load("backends/cuda/index.js");
const { getPeftModel } = await load("peft/index.js");

const { values: flags } = parseArgs({
  options: {
    model: { type: "string", default: "llama3-8b" },
    case: { type: "string", multiple: true, default: ["8x2048:budget+table"] },
    layers: { type: "string" },
    dtype: { type: "string", default: "bf16" },
    storage: { type: "string", default: "nf4" },
    fp8: { type: "boolean", default: false },
    "offload-embedding": { type: "boolean", default: false },
    steps: { type: "string", default: "5" },
    warmup: { type: "string", default: "3" },
    table: { type: "string", default: "24" },
    floor: { type: "boolean", default: false },
    attention: { type: "string" },
  },
});
const hfConfig = shapeOf(flags.model, flags.layers && Number(flags.layers));
const backend = new CudaBackend({ computeDtype: flags.dtype, fp8: flags.fp8 });
console.log(`${backend.description}; driver ${backend.device.driver.version}, cuBLASLt ${backend.device.lt.version}`);
const stored = flags.storage === "nf4" ? "nf4" : flags.dtype;
const model = randomModel(backend, hfConfig, stored, flags["offload-embedding"]);
console.log(`${seconds()} s: ${flags.model}: ${gib(model.parameterBytes)} of weights made`);
const peft = await getPeftModel(model, { r: 16, loraAlpha: 16 });
const optimizer = optimizerOf(peft);
const [steps, warmup] = [Number(flags.steps), Number(flags.warmup)];
for (const one of flags.case.map(parseCase)) {
  const about = { model: flags.model, fp8: flags.fp8, storage: flags.storage };
  try {
    const { runner, program, data, row } = await measure(one, { model, optimizer, steps, warmup });
    const needsTimes = one.table || flags.floor;
    const times = needsTimes ? await nodeTimes(program, data, backend, optimizer) : [];
    const extra = {};
    if (needsTimes) extra.breakdownMs = { ...breakdown(times), "optimizer step": row.updateMs };
    if (one.table) {
      const lines = kernelLines(times, one);
      console.log(lines.slice(0, Number(flags.table)).join("\n"));
      writeOut(`kernels-${flags.model}-${one.text.replace(/[^\w.=-]+/g, "-")}.txt`, `${lines.join("\n")}\n`);
    }
    if (flags.floor) {
      const tokens = one.batch * one.length;
      const rivalAttentionMs = flags.attention
        ? (JSON.parse(flags.attention)[`${one.batch}x${one.length}`] ?? null)
        : null;
      const sizes = { tokens, headTokens: data.numTargets, rivalAttentionMs };
      const floor = floorOf(backend, model.config, program, times, sizes);
      extra.floorMs = floor;
      extra.shareOfFloor = floor.total / row.medianMs;
    }
    runner.dispose();
    result("steps", { ...about, ...row, ...extra });
  } catch (error) {
    result("steps", { ...about, case: one.text, error: error.message });
    if (error.name !== "MemoryPlanError" && error.name !== "CudaOutOfMemoryError") throw error;
  }
}
optimizer.dispose();
backend.dispose();
