// DPO with LoRA r 16, the reference being the model without its adapter; trl_gpu.py is TRL's side of it.
//   node bench/gpu/dpo.mjs --rows pairs.jsonl --case llama3-1b:nf4:minimum --case llama3-1b:bf16:budget …
// The rows are gone through twice in their order: the first time warms up, the second is timed.
import { parseArgs } from "node:util";
import { GIB, load, median, result, seconds } from "./lib.mjs";
import { numbers, openModel, parseRlCase, QUIET, stepTimer, textOf } from "./rl-common.mjs";
import { readRows } from "./rl-rows.mjs";

const { Dataset, DPOTrainer } = await load("index.js");
const { values: flags } = parseArgs({
  options: {
    rows: { type: "string" },
    case: { type: "string", multiple: true },
    batch: { type: "string", default: "4" },
    device: { type: "string", default: "cuda" },
    folder: { type: "string" },
    layers: { type: "string" },
  },
});
const options = { ...flags, layers: flags.layers && Number(flags.layers) };
const rows = readRows(flags.rows);
const batch = Number(flags.batch);
const steps = rows.length / batch;
const tokensOf = (row) => 2 * row.prompt_ids.length + row.chosen_ids.length + row.rejected_ids.length;
const tokens = Array.from({ length: steps }, (_, step) =>
  rows.slice(step * batch, (step + 1) * batch).reduce((sum, row) => sum + tokensOf(row), 0),
);
const longest = Math.max(
  ...rows.map((row) => row.prompt_ids.length + Math.max(row.chosen_ids.length, row.rejected_ids.length)),
);

for (const one of flags.case.map(parseRlCase)) {
  const about = {
    model: one.model,
    who: `this project, ${one.storage === "nf4" ? "NF4" : "16-bit"} weights, ${one.memory} memory`,
    case: `${batch} pairs`,
  };
  let backend;
  try {
    const opened = await openModel(one, options);
    backend = opened.backend;
    console.log(`${seconds()} s: ${one.text}: model made`);
    const timer = stepTimer(backend);
    const trainer = new DPOTrainer({
      model: opened.model,
      tokenizer: numbers(opened.base.config.vocabSize),
      trainDataset: Dataset.fromList(
        rows.map((row) => ({
          prompt: textOf(row.prompt_ids),
          chosen: ` ${textOf(row.chosen_ids)}`,
          rejected: ` ${textOf(row.rejected_ids)}`,
        })),
      ),
      args: {
        ...QUIET,
        perDeviceTrainBatchSize: batch,
        maxSteps: 2 * steps,
        maxLength: longest,
        learningRate: 1e-5,
        trainSamplingStrategy: "sequential",
      },
      callbacks: [timer],
    });
    await trainer.train();
    const history = trainer.state.logHistory.filter(({ loss }) => loss !== undefined);
    const counted = timer.seconds.slice(steps);
    const firstLoss = history[0].loss;
    const right = Math.abs(firstLoss - Math.LN2) < 1e-3;
    const medianMs = 1000 * median(counted);
    result("dpo", {
      ...about,
      layers: opened.base.config.layers,
      medianMs,
      slowestOverMedian: (1000 * Math.max(...counted)) / medianMs,
      tokensPerSecond: median(counted.map((s, i) => tokens[i] / s)),
      peakGiB: backend.memory().peak / GIB,
      firstLoss,
      logpsChosen: history[0]["logps/chosen"],
      lastLoss: history.at(-1).loss,
      stepsMs: counted.map((s) => 1000 * s),
      firstStepsMs: timer.seconds.slice(0, steps).map((s) => 1000 * s),
      stepTokens: tokens,
      ...(!right && { error: `the first loss is ${firstLoss}, not ln 2` }),
    });
    trainer.dispose();
  } catch (error) {
    console.log(error.stack);
    result("dpo", { ...about, error: error.message });
  }
  backend?.dispose();
}
