// Makes models/tiny-math: a tokenizer, then a Qwen2 model trained from scratch with this project's own full training.
//
//   node scripts/embedded-model/pretrain.mjs [--out models/tiny-math] [--work /tmp/tiny-math] [--rows 125000] [--resume]
//
// It takes a quarter of an hour or so on two cores. --work holds its checkpoints; --resume goes on from the last one.
import { appendFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRandomModel, Dataset, loadTokenizer, openCpuBackend, SFTTrainer, saveModel } from "../../dist/index.js";
import { corpus } from "./corpus.mjs";
import { probe } from "./probe.mjs";
import { VOCAB_SIZE, writeTokenizer } from "./tokenizer.mjs";

const root = join(import.meta.dirname, "..", "..");
const { values: o } = parseArgs({
  options: {
    out: { type: "string", default: join(root, "models", "tiny-math") },
    work: { type: "string", default: "/tmp/tiny-math" },
    rows: { type: "string", default: "125000" },
    seed: { type: "string", default: "2025" },
    "learning-rate": { type: "string", default: "3e-3" },
    layers: { type: "string", default: "6" },
    threads: { type: "string", default: "2" },
    resume: { type: "boolean", default: false },
  },
});
const seed = Number(o.seed);
mkdirSync(o.work, { recursive: true });
await writeTokenizer(o.work, { rows: 20000, seed });
const tokenizer = await loadTokenizer(o.work);

const config = {
  architectures: ["Qwen2ForCausalLM"],
  attention_dropout: 0.0,
  bos_token_id: null,
  eos_token_id: tokenizer.eosTokenId,
  hidden_act: "silu",
  hidden_size: 192,
  initializer_range: 0.02,
  intermediate_size: 512,
  max_position_embeddings: 1024,
  max_window_layers: Number(o.layers),
  model_type: "qwen2",
  num_attention_heads: 6,
  num_hidden_layers: Number(o.layers),
  num_key_value_heads: 2,
  pad_token_id: tokenizer.padTokenId,
  rms_norm_eps: 1e-6,
  rope_theta: 10000.0,
  sliding_window: null,
  tie_word_embeddings: true,
  torch_dtype: "bfloat16",
  use_cache: true,
  use_sliding_window: false,
  vocab_size: VOCAB_SIZE,
};
const generationConfig = { eos_token_id: tokenizer.eosTokenId, pad_token_id: tokenizer.padTokenId };

const backend = await openCpuBackend({ threads: Number(o.threads) });
const model = await createRandomModel({ config, backend, seed, nameOrPath: "tiny-math" });

const log = (row) => appendFileSync(join(o.work, "log.jsonl"), `${JSON.stringify(row)}\n`);
const started = performance.now();
const trainer = new SFTTrainer({
  model,
  tokenizer,
  trainDataset: Dataset.fromList(corpus(Number(o.rows), seed + 1)),
  maxSeqLength: 512,
  packing: true,
  args: {
    outputDir: o.work,
    perDeviceTrainBatchSize: 4,
    numTrainEpochs: 1,
    learningRate: Number(o["learning-rate"]),
    lrSchedulerType: "cosine",
    warmupRatio: 0.03,
    weightDecay: 0.05,
    adamBeta2: 0.98,
    loggingSteps: 20,
    saveSteps: 250,
    saveTotalLimit: 2,
    seed,
  },
  callbacks: [
    {
      onLog: ({ state }, row) => log({ step: state.globalStep, seconds: (performance.now() - started) / 1000, ...row }),
      async onStepEnd({ state }) {
        if (state.globalStep % 200 === 0) log({ step: state.globalStep, probe: await probe(model, tokenizer) });
      },
    },
  ],
});
log({ config, data: trainer.dataReport, steps: trainer.state.maxSteps, backend: backend.description });
await trainer.train({ resumeFromCheckpoint: o.resume });
await saveModel(model, o.out, { dtype: "bfloat16", generationConfig });
await tokenizer.savePretrained(o.out);
const result = await probe(model, tokenizer, { count: 200 });
log({ step: trainer.state.globalStep, probe: result });
console.log(JSON.stringify(result));
backend.dispose();
