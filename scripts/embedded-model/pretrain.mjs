// Makes models/tiny-math: a tokenizer, then a Qwen2 model trained from scratch with this project's own full training.
//
//   node scripts/embedded-model/pretrain.mjs [--out models/tiny-math] [--work /tmp/tiny-math] [--rows 80000] [--resume]
//
// It takes a quarter of an hour or so on two cores. --work holds its checkpoints; --resume goes on from the last one.
import { appendFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { pack } from "../../dist/data/index.js";
import {
  asTrainable,
  createRandomModel,
  loadTokenizer,
  openCpuBackend,
  saveModel,
  TokenizedSource,
  Trainer,
} from "../../dist/index.js";
import { corpus } from "./corpus.mjs";
import { probe } from "./probe.mjs";
import { tokenizeCorpusRow } from "./rows.mjs";
import { VOCAB_SIZE, writeTokenizer } from "./tokenizer.mjs";

/** Tokens of a packed row; two rows make a step. */
const LENGTH = 512;

const root = join(import.meta.dirname, "..", "..");
const { values: o } = parseArgs({
  options: {
    out: { type: "string", default: join(root, "models", "tiny-math") },
    work: { type: "string", default: "/tmp/tiny-math" },
    rows: { type: "string", default: "80000" },
    seed: { type: "string", default: "2025" },
    "learning-rate": { type: "string", default: "1.5e-3" },
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
  initializer_range: 0.06,
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
const rows = Array.from(corpus(Number(o.rows), seed + 1), (row) => tokenizeCorpusRow(row, tokenizer));
const { packs, report: packing } = pack(rows, { maxSeqLength: LENGTH });
const trainer = new Trainer({
  model: asTrainable(model),
  train: new TokenizedSource(packs, { seed, shuffle: true }),
  maxPositions: LENGTH,
  args: {
    outputDir: o.work,
    perDeviceTrainBatchSize: 2,
    numTrainEpochs: 1,
    learningRate: Number(o["learning-rate"]),
    lrSchedulerType: "cosine",
    warmupRatio: 0.03,
    weightDecay: 0.05,
    adamBeta2: 0.98,
    loggingSteps: 20,
    saveSteps: 500,
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
log({ config, packing, steps: trainer.state.maxSteps, backend: backend.description });
await trainer.train({ resumeFromCheckpoint: o.resume });
await saveModel(model, o.out, { dtype: "bfloat16", generationConfig });
await tokenizer.savePretrained(o.out);
const result = await probe(model, tokenizer, { count: 200 });
log({ step: trainer.state.globalStep, probe: result });
console.log(JSON.stringify(result));
backend.dispose();
