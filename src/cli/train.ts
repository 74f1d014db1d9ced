import { CliCommand } from "./command.ts";
import { dryRun } from "./dry-run.ts";
import { givenSettings, TRAIN_TABLE, trainSettings } from "./settings/train-settings.ts";
import { note, print } from "./terminal.ts";
import { runTraining } from "./training.ts";

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
  const settings = trainSettings(givenSettings(configFile, flags));
  if (flags.dryRun) return dryRun(settings, flags.json ?? false);
  if (!flags.json) {
    await runTraining(settings, { note });
    return;
  }
  const event = (row: Readonly<Record<string, unknown>>): void => print(JSON.stringify(row));
  await runTraining(settings, { note: () => undefined, event });
}
