import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { isBfloat16Supported } from "../api/device.ts";
import { Dataset } from "../data/index.ts";
import { getPeftModel } from "../peft/index.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import { TrainingArguments } from "./arguments.ts";
import { argmax } from "./predictions.ts";
import { SFTConfig, SFTTrainer, type SFTTrainerOptions } from "./sft.ts";
import { inFolder, openBackend } from "./tiny-training.test.support.ts";

const backend = await openBackend();
const tokenizer = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
const rows = (count: number, from = 0) =>
  Dataset.fromList(
    Array.from({ length: count }, (_, i) => ({
      messages: [
        { role: "user", content: `What is ${from + i} and one?` },
        { role: "assistant", content: `${from + i + 1}` },
      ],
    })),
  );

async function peft() {
  const overrides = { vocab_size: tokenizer.vocabSize, num_hidden_layers: 1 };
  return getPeftModel(tinyModel(backend, "llama", overrides), { r: 2, targetModules: ["q_proj", "v_proj"] });
}

async function withTrainer<T>(
  options: Partial<SFTTrainerOptions>,
  use: (trainer: SFTTrainer) => Promise<T> | T,
): Promise<T> {
  using model = await peft();
  using trainer = new SFTTrainer({ model, tokenizer, trainDataset: rows(6), ...options });
  return await use(trainer);
}

test("the example of the notebooks runs as it is", async () => {
  await inFolder(async (folder) => {
    const outputDir = join(folder, "outputs");
    const args = {
      per_device_train_batch_size: 4,
      gradient_accumulation_steps: 2,
      warmup_steps: 5,
      max_steps: 3,
      learning_rate: 2e-4,
      fp16: !isBfloat16Supported(),
      bf16: isBfloat16Supported(),
      logging_steps: 1,
      output_dir: outputDir,
      optim: "adamw_8bit",
      seed: 3407,
      log_level: "error",
    };
    await withTrainer(
      { args: new TrainingArguments(args), maxSeqLength: 64, datasetTextField: "text" },
      async (trainer) => {
        const { globalStep, trainingLoss } = await trainer.train();
        assert.equal(globalStep, 3);
        assert.ok(trainingLoss > 0);
        assert.deepEqual(
          trainer.state.logHistory.flatMap(({ loss, learning_rate }) => (loss === undefined ? [] : learning_rate)),
          [0, 4e-5, 8e-5],
        );
        for (const file of ["adapter_config.json", "tokenizer.json"]) {
          assert.ok(existsSync(join(outputDir, "checkpoint-3", file)), file);
        }
      },
    );
  });
});

test("options are taken from SFTConfig, from an object, or beside it", async () => {
  const packed = (options: Partial<SFTTrainerOptions>) =>
    withTrainer(options, ({ dataReport, args }) => [dataReport.packing !== null, args.learningRate]);
  assert.deepEqual(await packed({ args: new SFTConfig({ packing: true, max_length: 64 }) }), [true, 2e-5]);
  assert.deepEqual(await packed({ args: { packing: true, learningRate: 1 } }), [true, 1]);
  assert.deepEqual(await packed({ args: new TrainingArguments(), packing: true }), [true, 5e-5]);
  assert.deepEqual(await packed({ args: { packing: true }, packing: false }), [false, 2e-5]);
  assert.deepEqual(await packed({ processingClass: tokenizer, tokenizer: undefined }), [false, 2e-5]);
  await assert.rejects(packed({ tokenizer: undefined }), /tokenizer is missing \(processingClass/);
  await assert.rejects(packed({ packin: true } as object), /unknown option "packin"; did you mean "packing"/);
});

test("evaluation packs as training does, or as evalPacking says; evaluate and predict prepare rows", async () => {
  const evaluated = (options: object) =>
    withTrainer({ evalDataset: rows(5, 20), args: { logLevel: "error", ...options } }, async (trainer) => {
      const { evaluation } = trainer.options;
      const metrics = await trainer.evaluate();
      const again = await trainer.evaluate(rows(5, 20));
      assert.equal(again.eval_loss, metrics.eval_loss);
      const { predictions, labels } = await trainer.predict(rows(2, 20));
      assert.equal(predictions.length, 2);
      assert.equal(labels[0]!.length, predictions[0]!.rows);
      const named = await trainer.evaluate({ a: rows(2, 20), b: rows(1, 3) });
      assert.ok(named.eval_a_loss! > 0 && named.eval_b_loss! > 0);
      return [(evaluation as { length: number }).length, Math.round(metrics.eval_loss! * 1e5)];
    });
  const [unpacked, loss] = await evaluated({});
  assert.equal(unpacked, 5);
  const [packed, packedLoss] = await evaluated({ packing: true, maxLength: 128 });
  assert.ok(packed! < 5);
  assert.equal(packedLoss, loss);
  assert.deepEqual(await evaluated({ packing: true, maxLength: 128, evalPacking: false }), [5, loss]);
});

test("computeMetrics sees the rows' sequences", async () => {
  await withTrainer(
    {
      evalDataset: rows(3),
      args: { logLevel: "error" },
      preprocessLogitsForMetrics: argmax,
      computeMetrics: ({ predictions, labels }) => ({ rows: predictions.length, same: Number(labels.length === 3) }),
    },
    async (trainer) => {
      const metrics = await trainer.evaluate();
      assert.deepEqual([metrics.eval_rows, metrics.eval_same], [3, 1]);
    },
  );
});

test("offloading and the checkpointing argument change no number", async () => {
  const losses = (args: object) =>
    withTrainer(
      { args: { logLevel: "error", maxSteps: 2, loggingSteps: 1, saveStrategy: "no", ...args } },
      async (trainer) => {
        await trainer.train();
        return trainer.state.logHistory.flatMap(({ loss }) => loss ?? []);
      },
    );
  const plain = await losses({});
  assert.deepEqual(await losses({ activationOffloading: true, activationMemory: 1.75 * 2 ** 20 }), plain);
  assert.deepEqual(await losses({ gradientCheckpointing: true }), plain);
  assert.deepEqual(await losses({ gradientCheckpointing: "unsloth" }), plain);
});
