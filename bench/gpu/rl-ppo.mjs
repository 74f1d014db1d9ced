// Whole updates of PPO (rollout, its scores, one epoch of training): policy, reference, value and reward model are one base
// with adapters; trl_gpu.py is TRL's side of it.
//   node bench/gpu/rl-ppo.mjs --rows prompts.jsonl --response 128 --case llama3-1b:nf4:minimum …
// Responses have no end but their length, so that all updates are equal work.
import { parseArgs } from "node:util";
import { GIB, load, median, result, seconds } from "./lib.mjs";
import { numbers, openModel, parseRlCase, QUIET, stepTimer, textOf } from "./rl-common.mjs";
import { readRows } from "./rl-rows.mjs";

const { addValueAdapter, Dataset, PPOTrainer } = await load("index.js");
const { values: flags } = parseArgs({
  options: {
    rows: { type: "string" },
    case: { type: "string", multiple: true },
    response: { type: "string", default: "128" },
    micro: { type: "string", default: "4" },
    warmup: { type: "string", default: "1" },
    updates: { type: "string", default: "2" },
    device: { type: "string", default: "cuda" },
    folder: { type: "string" },
    layers: { type: "string" },
  },
});
const options = { ...flags, layers: flags.layers && Number(flags.layers) };
const rows = readRows(flags.rows);
const [response, micro, warmup, updates] = [flags.response, flags.micro, flags.warmup, flags.updates].map(Number);
const tokens = rows.reduce((sum, row) => sum + row.input_ids.length + response, 0);

for (const one of flags.case.map(parseRlCase)) {
  const about = {
    model: one.model,
    who: `this project: one base (${one.storage === "nf4" ? "NF4" : "16-bit"}), three adapters, ${one.memory} memory`,
    case: `${rows.length}x${rows[0].input_ids.length}+${response}`,
  };
  let backend;
  try {
    const opened = await openModel(one, options);
    const { base, model } = opened;
    backend = opened.backend;
    await addValueAdapter(model);
    await addValueAdapter(model, { adapterName: "reward" });
    console.log(`${seconds()} s: ${one.text}: model made`);
    const timer = stepTimer(backend);
    const trainer = new PPOTrainer({
      model,
      tokenizer: numbers(base.config.vocabSize),
      rewardModel: "reward",
      trainDataset: Dataset.fromList(rows.map((row) => ({ prompt: textOf(row.input_ids) }))),
      args: {
        ...QUIET,
        perDeviceTrainBatchSize: micro,
        gradientAccumulationSteps: rows.length / micro,
        responseLength: response,
        numPpoEpochs: 1,
        numSampleGenerations: 0,
        maxSteps: warmup + updates,
      },
      callbacks: [timer],
    });
    // Seconds of the rollouts within the updates.
    const generation = [];
    const { rollouts } = trainer;
    const { complete } = rollouts;
    rollouts.complete = async (request) => {
      const from = performance.now();
      const made = await complete(request);
      generation.push((performance.now() - from) / 1000);
      if (made.some(({ length }) => length !== response)) throw new Error("a response ended before its length");
      return made;
    };
    await trainer.train();
    const [first] = trainer.state.logHistory.filter(({ loss }) => loss !== undefined);
    const { "objective/kl": firstKl, "val/ratio": firstRatio } = first;
    const right = Math.abs(firstKl) < 1 && Math.abs(firstRatio - 1) < 0.05;
    const counted = timer.seconds.slice(warmup);
    const secondsPerUpdate = median(counted);
    result("ppo", {
      ...about,
      layers: base.config.layers,
      secondsPerUpdate,
      generationSeconds: median(generation.slice(warmup)),
      tokensPerSecond: tokens / secondsPerUpdate,
      peakGiB: backend.memory().peak / GIB,
      weightsGiB: base.parameterBytes / GIB,
      firstKl,
      firstRatio,
      entropy: first["policy/entropy_avg"],
      updateSeconds: counted,
      firstSeconds: timer.seconds.slice(0, warmup),
      ...(!right && { error: `the first update has KL ${firstKl} and ratio ${firstRatio}: expected 0 and 1` }),
    });
    trainer.dispose();
  } catch (error) {
    console.log(error.stack);
    result("ppo", { ...about, error: error.message });
  }
  backend?.dispose();
}
