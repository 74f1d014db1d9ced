import { CliCommand } from "./command.ts";
import { dryRun } from "./dry-run.ts";
import { withPlaces } from "./settings/placed-errors.ts";
import { givenSettings, TRAIN_TABLE, trainSettings } from "./settings/train-settings.ts";
import { runTraining, trainingOutput } from "./training.ts";

/** `unsloth train`: fine-tune a model as a file of settings, flags, or both say. */
export function trainCommand(): CliCommand {
  const command = new CliCommand("train")
    .description("fine-tune a model and write the adapter")
    .argument("[config]", "YAML file of settings; flags win over it")
    .option("--dry-run", "print the memory plan and the steps; load no weights, train nothing")
    .option("--json", "a JSON line for every log row, for machines, on standard output")
    .addHelpText(
      "after",
      `
Examples:
  unsloth train --model Qwen/Qwen2.5-0.5B-Instruct --data train.jsonl --output outputs --max-steps 100
  unsloth train config.yaml --learning-rate 1e-4
  unsloth train config.yaml --dry-run

A file has the flags' names (learning_rate or learningRate), flat or in sections:
  model: Qwen/Qwen2.5-0.5B-Instruct
  data: train.jsonl
  lora: { r: 16, lora_alpha: 16 }
  training: { max_steps: 100, learning_rate: 2e-4 }`,
    ) as CliCommand;
  TRAIN_TABLE.addFlags(command);
  return command.action(runTrain) as CliCommand;
}

interface TrainFlags extends Readonly<Record<string, unknown>> {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

async function runTrain(configFile: string | undefined, flags: TrainFlags): Promise<void> {
  const given = givenSettings(configFile, flags);
  const settings = trainSettings(given);
  const { dryRun: dry, json = false } = flags;
  await withPlaces<unknown>(given, () => (dry ? dryRun(settings, json) : runTraining(settings, trainingOutput(json))));
}
