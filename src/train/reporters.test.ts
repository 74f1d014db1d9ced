import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { TrainerCallback } from "./callbacks.ts";
import { PrinterCallback, ProgressCallback } from "./progress.ts";
import { TensorBoardCallback, tagOf } from "./tensorboard-callback.ts";
import { inFolder, openBackend, quietTrainer, randomRows, source, tinyPeft } from "./tiny-training.test.support.ts";
import { WandbCallback } from "./wandb-callback.ts";

const backend = await openBackend();

async function trainWith(args: Record<string, unknown>, callbacks: TrainerCallback[] = []): Promise<void> {
  using model = await tinyPeft(backend);
  const data = { train: source(randomRows(4)), evaluation: source(randomRows(2)) };
  using trainer = quietTrainer(model, {
    ...data,
    callbacks,
    args: { maxSteps: 2, evalStrategy: "steps", evalSteps: 2, ...args },
  });
  await trainer.train();
}

test("tags are Hugging Face's", () => {
  assert.deepEqual(["loss", "eval_loss", "test_loss", "train_loss", "eval_math_f1"].map(tagOf), [
    "train/loss",
    "eval/loss",
    "test/loss",
    "train/train_loss",
    "eval/math_f1",
  ]);
});

test("reportTo tensorboard writes a run of scalars and the settings", async () => {
  await inFolder(async (outputDir) => {
    await trainWith({ outputDir, reportTo: "tensorboard" });
    const [run] = readdirSync(join(outputDir, "runs"));
    assert.match(run!, /^[A-Z][a-z]{2}\d\d_\d\d-\d\d-\d\d_/);
    const [file] = readdirSync(join(outputDir, "runs", run!));
    const bytes = readFileSync(join(outputDir, "runs", run!, file!)).toString("latin1");
    for (const tag of ["train/loss", "train/grad_norm", "eval/loss", "train/train_runtime", "args/text_summary"]) {
      assert.ok(bytes.includes(tag), tag);
    }
    assert.ok(bytes.includes('"output_dir"') && bytes.includes('"hidden_size": 24'));
  });
});

test("loggingDir says where, and TENSORBOARD_LOGGING_DIR without it", async () => {
  await inFolder(async (outputDir) => {
    const isRun = (folder: string): boolean =>
      readdirSync(folder).some((name) => name.startsWith("events.out.tfevents."));
    await trainWith({ outputDir, loggingDir: join(outputDir, "here") }, [new TensorBoardCallback()]);
    assert.ok(isRun(join(outputDir, "here")));
    process.env.TENSORBOARD_LOGGING_DIR = join(outputDir, "there");
    try {
      await trainWith({ outputDir }, [new TensorBoardCallback()]);
    } finally {
      delete process.env.TENSORBOARD_LOGGING_DIR;
    }
    assert.ok(isRun(join(outputDir, "there")));
  });
});

test("wandb gets a run, its settings, and rows with their step", async () => {
  const calls: unknown[] = [];
  const sdk = {
    init: async (options: { project: string; name: string; config: Record<string, unknown> }) =>
      void calls.push(options),
    log: (data: Record<string, unknown>) => void calls.push(data),
    finish: async () => void calls.push("finish"),
  };
  await trainWith({ runName: "first" }, [new WandbCallback(async () => sdk)]);
  const [init, first, ...rest] = calls as [Record<string, unknown>, Record<string, number>, ...unknown[]];
  assert.equal(init.name, "first");
  assert.equal(init.project, process.env.WANDB_PROJECT ?? "huggingface");
  assert.equal((init.config as Record<string, unknown>).learningRate, 1e-2);
  assert.equal(first["train/global_step"], 1);
  assert.ok(first["train/loss"]! > 0);
  assert.equal(rest.at(-1), "finish");
});

test("without the package, wandb is an error that tells how to get it", async () => {
  await assert.rejects(trainWith({ reportTo: "wandb" }), /reportTo "wandb" needs the package @wandb\/sdk: npm install/);
});

function capture(isTTY: boolean): { stream: { isTTY: boolean; write(text: string): void }; text(): string } {
  let written = "";
  return {
    stream: {
      isTTY,
      write: (text) => {
        written += text;
      },
    },
    text: () => written,
  };
}

const memory = () => backend.memory();

test("where there is no terminal, rows are lines and nothing else is printed", async () => {
  const [bar, plain] = [capture(false), capture(false)];
  await trainWith({}, [new ProgressCallback({ memory, stream: bar.stream }), new PrinterCallback(plain.stream)]);
  assert.equal(bar.text(), plain.text());
  const lines = plain.text().trimEnd().split("\n");
  assert.equal(lines.length, 4);
  assert.match(lines[0]!, /^\{'loss': \d+\.\d+, 'grad_norm': .*, 'learning_rate': 0\.01, .*'epoch': 1\.0\}$/);
  assert.match(lines[2]!, /^\{'eval_loss': /);
  assert.match(lines[3]!, /^\{'train_runtime': /);
});

test("a terminal shows a bar below the rows", async () => {
  const { stream, text } = capture(true);
  await trainWith({}, [new ProgressCallback({ memory, stream })]);
  assert.ok(text().includes(`\r\x1b[K|${" ".repeat(24)}| step 0/2`));
  assert.match(text(), /\|█{12} {12}\| step 1\/2, loss \d+\.\d{4}, \d+ tokens\/s, \d+\.\d\d GiB, \d\d:\d\d left/);
  assert.match(text(), /\|█{24}\| step 2\/2/);
  assert.ok(text().endsWith("\n"));
});

test("in a narrow terminal no line wraps: a shorter bar, or none", async () => {
  for (const [columns, first] of [
    [60, /^\| {12,24}\| step 0\/2/],
    [40, /^\|? *\|? ?step 0\/2/],
    [20, /^step 0\/2, /],
  ] as const) {
    const { stream, text } = capture(true);
    await trainWith({}, [new ProgressCallback({ memory, stream: { ...stream, columns } })]);
    const drawn = text()
      .split("\r\x1b[K")
      .slice(1)
      .map((line) => line.trimEnd())
      .filter((line) => !line.startsWith("{"));
    assert.match(drawn[0]!, first);
    assert.ok(drawn.length >= 5 && drawn.every((line) => line.length < columns), `${columns}: ${drawn.join("\n")}`);
  }
});
