import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { FastLanguageModel } from "../api/fast-language-model.ts";
import { openCpuBackend } from "../backends/cpu/backend.ts";
import { Dataset } from "../data/index.ts";
import { drawMemory } from "../graph/draw.ts";
import { numel } from "../graph/types.ts";
import { SFTTrainer } from "../train/index.ts";
import { accuracy, answerProblems, type Sample } from "./evaluate.ts";
import { generateProblems } from "./problems.ts";
import { type QuickstartReport, reportPage } from "./report.ts";

const root = join(import.meta.dirname, "..", "..");
/** The model that comes with the package. */
export const EMBEDDED_MODEL = join(root, "models", "tiny-math");

export interface QuickstartOptions {
  /** Gets adapter/, train.jsonl, test.jsonl, report.json and report.html. */
  readonly output: string;
  readonly trainRows?: number;
  readonly testProblems?: number;
  /** Optimizer steps; one epoch and a half when left out. */
  readonly maxSteps?: number;
  readonly seed?: number;
  readonly threads?: number | undefined;
  /** Which build of the CPU kernels; native where there is one. */
  readonly prefer?: "native" | "wasm" | undefined;
  /** Print nothing. */
  readonly quiet?: boolean;
}

const EPOCHS = 1.5;
/** Packed rows of so many tokens, and as many of them in a step. */
const SEQUENCE = 512;
const BATCH = 2;

/**
 * Fine-tunes the embedded model with QLoRA to solve word problems in steps and to explain a wrong answer, and measures
 * exact answers to held-out problems before and after.
 */
export async function quickstart(options: QuickstartOptions): Promise<QuickstartReport> {
  const { output, trainRows = 2000, testProblems = 200, seed = 3407, quiet = false } = options;
  const print = (line: string): void => void (quiet || process.stderr.write(`${line}\n`));
  const seconds = stopwatch();

  const { train, test } = generateProblems({ train: trainRows, test: testProblems, seed });
  await mkdir(output, { recursive: true });
  await writeFile(join(output, "train.jsonl"), toJsonl(train.map(({ row }) => row)));
  await writeFile(join(output, "test.jsonl"), toJsonl(test.map(({ row }) => row)));

  const backend = await openCpuBackend({ threads: options.threads, prefer: options.prefer });
  try {
    const { model: base, tokenizer } = await FastLanguageModel.fromPretrained({
      modelName: EMBEDDED_MODEL,
      loadIn4bit: true,
      maxSeqLength: SEQUENCE,
      backend,
    });
    const modelParameters = [...base.parameters.values()].reduce((sum, { shape }) => sum + numel(shape), 0);
    print(`${modelParameters} parameters in 4 bits on ${backend.description}; ${trainRows} rows to train on`);

    const evaluate = async (when: string): Promise<Sample[]> => {
      const samples = await answerProblems(base, tokenizer, test, (done, correct) => {
        print(`${when}: ${correct} of ${done} held-out problems right`);
      });
      print(`\n${samples[0]!.input}\n--- answer ${when}\n${samples[0]!.output}\n`);
      return samples;
    };
    const before = await evaluate("before training");
    const secondsBefore = seconds();

    const model = await FastLanguageModel.getPeftModel(base, { r: 16, loraAlpha: 64, randomState: seed });
    using trainer = new SFTTrainer({
      model,
      tokenizer,
      trainDataset: await Dataset.fromJsonl(join(output, "train.jsonl")),
      packing: true,
      assistantOnlyLoss: true,
      args: {
        outputDir: output,
        perDeviceTrainBatchSize: BATCH,
        ...(options.maxSteps === undefined ? { numTrainEpochs: EPOCHS } : { maxSteps: options.maxSteps }),
        learningRate: 2e-3,
        lrSchedulerType: "cosine",
        warmupSteps: 5,
        optim: "adamw_8bit",
        loggingSteps: options.maxSteps === undefined ? 5 : 1,
        loggingFirstStep: true,
        saveStrategy: "no",
        seed,
        ...(quiet && { logLevel: "error" as const }),
      },
    });
    const { metrics } = await trainer.train();
    await trainer.saveModel(join(output, "adapter"));
    const secondsTraining = seconds() - secondsBefore;

    const after = await evaluate("after training");
    const losses = trainer.state.logHistory.flatMap(({ loss }) => (loss === undefined ? [] : [loss]));
    const report: QuickstartReport = {
      accuracyBefore: accuracy(before),
      accuracyAfter: accuracy(after),
      lossFirst: losses[0]!,
      lossLast: losses.at(-1)!,
      tokensPerSecond: metrics.train_tokens_per_second!,
      peakBytes: backend.memory().peak,
      peakProcessBytes: process.resourceUsage().maxRSS * 1024,
      seconds: seconds(),
      secondsBefore,
      secondsTraining,
      secondsAfter: seconds() - secondsBefore - secondsTraining,
      trainRows,
      testProblems,
      steps: trainer.state.globalStep,
      trainedParameters: trainer.optimizer.trainables.reduce((sum, { tensor }) => sum + numel(tensor.shape), 0),
      modelParameters,
      backend: backend.description,
    };
    const memory = drawMemory(trainer.runner.program("train", SEQUENCE * BATCH));
    await writeFile(join(output, "report.json"), `${JSON.stringify(report, null, 2)}\n`);
    await writeFile(join(output, "report.html"), reportPage({ report, losses, memory, before, after }));
    return report;
  } finally {
    backend.dispose();
  }
}

/** Seconds since it was made. */
function stopwatch(): () => number {
  const started = performance.now();
  return () => (performance.now() - started) / 1000;
}

function toJsonl(rows: readonly object[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}
