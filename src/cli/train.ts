import { mkdirSync } from "node:fs";
import { Command } from "commander";
import { FastLanguageModel } from "../api/fast-language-model.ts";
import { Dataset } from "../data/index.ts";
import { loraSchema } from "../peft/lora-config.ts";
import { argumentsSchema } from "../train/arguments.ts";
import { SFTTrainer, sftSchema } from "../train/sft.ts";
import { addSchemaFlags, schemaValues } from "./flags.ts";

/** What Unsloth's examples set, where it differs from Hugging Face's defaults. */
const TRAIN_DEFAULTS = {
  learningRate: 2e-4,
  perDeviceTrainBatchSize: 2,
  gradientAccumulationSteps: 4,
  loggingSteps: 1,
  seed: 3407,
};

/** `unsloth train`: fine-tune a model on a JSONL file and write the adapter. */
export function trainCommand(): Command {
  const command = new Command("train")
    .description("fine-tune a model on a JSONL file")
    .requiredOption("--model <path>", "Hugging Face folder or .gguf file")
    .requiredOption("--data <file>", "JSONL (or a JSON array) of training rows")
    .requiredOption("--output <dir>", "where the adapter and checkpoints go")
    .option("--eval-data <file>", "JSONL of held-out rows")
    .option("--load-in-4bit [true|false]", "quantise the frozen weights to NF4 (default true)")
    .option("--full-finetuning", "train all weights instead of an adapter")
    .option("--dtype <name>", "float32, bfloat16 or float16: how weights are kept (default: as in the checkpoint)")
    .option("--threads <number>", "CPU threads")
    .option("--use-gradient-checkpointing <setting>", 'true, false or "unsloth"')
    .option("--resume", "go on from the latest checkpoint of --output");
  addSchemaFlags(command, loraSchema, ["inferenceMode", "taskType"]);
  addSchemaFlags(command, sftSchema);
  addSchemaFlags(command, argumentsSchema, ["outputDir"]);
  return command.action(runTrain);
}

interface TrainFlags {
  readonly model: string;
  readonly data: string;
  readonly output: string;
  readonly evalData?: string;
  readonly loadIn4bit?: boolean | string;
  readonly fullFinetuning?: boolean;
  readonly dtype?: string;
  readonly threads?: string;
  readonly useGradientCheckpointing?: string;
  readonly resume?: boolean;
}

async function runTrain(flags: TrainFlags): Promise<void> {
  const sft = schemaValues(sftSchema, { ...flags });
  const args = { ...TRAIN_DEFAULTS, ...schemaValues(argumentsSchema, { ...flags }), outputDir: flags.output };
  const trainDataset = await readRows(flags.data);
  const evalDataset = flags.evalData === undefined ? undefined : await readRows(flags.evalData);
  const full = flags.fullFinetuning ?? false;
  const { model: base, tokenizer } = await FastLanguageModel.fromPretrained({
    modelName: flags.model,
    fullFinetuning: full,
    loadIn4bit: flags.loadIn4bit === undefined ? !full : flags.loadIn4bit === true || flags.loadIn4bit === "true",
    dtype: flags.dtype ?? null,
    ...(flags.threads !== undefined && { threads: Number(flags.threads) }),
    ...(sft.maxSeqLength !== undefined && { maxSeqLength: sft.maxSeqLength }),
  });
  print(`${flags.model} on ${base.backend.description}, weights ${megabytes(base.parameterBytes)} MiB`);
  for (const warning of base.warnings) print(`note: ${warning}`);
  const lora = schemaValues(loraSchema, { ...flags });
  const checkpointing = flags.useGradientCheckpointing;
  const model = full
    ? base
    : await FastLanguageModel.getPeftModel(base, {
        ...lora,
        ...(checkpointing !== undefined && {
          useGradientCheckpointing: checkpointing === "unsloth" ? checkpointing : checkpointing === "true",
        }),
      });
  if ("printTrainableParameters" in model) model.printTrainableParameters(print);
  mkdirSync(flags.output, { recursive: true });
  try {
    await fit(new SFTTrainer({ ...sft, model, tokenizer, trainDataset, evalDataset, args }), flags);
  } finally {
    base.backend.dispose();
  }
}

/** Report on the data, train, evaluate before and after, save. */
async function fit(trainer: SFTTrainer, flags: TrainFlags): Promise<void> {
  using _ = trainer;
  const { recipe, packing } = trainer.dataReport;
  print(
    `${recipe.rows} rows, ${recipe.tokens} tokens, ${recipe.targets} trained on; ${recipe.dropped} dropped, ${recipe.truncated} truncated`,
  );
  if (packing) print(`packed into ${packing.packs} rows, ${(100 * packing.efficiency).toFixed(1)}% full`);
  if (flags.evalData !== undefined) print(`eval_loss before: ${(await trainer.evaluate()).eval_loss!.toFixed(4)}`);
  await trainer.train({ resumeFromCheckpoint: flags.resume ?? false });
  if (flags.evalData !== undefined) print(`eval_loss after: ${(await trainer.evaluate()).eval_loss!.toFixed(4)}`);
  await trainer.saveModel(flags.output);
  print(`saved to ${flags.output}`);
}

/** A JSONL file, or a .json file with one array. */
function readRows(path: string): Promise<Dataset> {
  return path.endsWith(".json") ? Dataset.fromJson(path) : Dataset.fromJsonl(path);
}

const print = (line: string): void => void process.stderr.write(`${line}\n`);
const megabytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);
