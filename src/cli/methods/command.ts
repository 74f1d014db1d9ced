import { CliCommand } from "../command.ts";
import { withPlaces } from "../settings/placed-errors.ts";
import { givenSettings, methodSettings, trainingTable } from "../settings/train-settings.ts";
import { trainingOutput } from "../training.ts";
import { methodDryRun } from "./dry-run.ts";
import type { CliMethod } from "./method.ts";
import { runMethod } from "./run.ts";

/** `unsloth dpo` and its like: a training by a method, as a file of settings, flags, or both say. */
export function methodCommand(method: CliMethod): CliCommand {
  const { name, description, rows, example } = method;
  const table = trainingTable(method);
  const command = new CliCommand(name)
    .description(description)
    .argument("[config]", "YAML file of settings; flags win over it")
    .option("--dry-run", "print what became of the rows, the steps and the memory plan; load no weights, train nothing")
    .option("--json", "a JSON line for every log row, for machines, on standard output")
    .addHelpText(
      "after",
      `
Rows: ${rows}

Examples:
  unsloth ${name} --model Qwen/Qwen2.5-0.5B-Instruct ${example.join(" ")}
  unsloth ${name} config.yaml --learning-rate 5e-6
  unsloth ${name} config.yaml --dry-run

A file has the flags' names, flat or in sections: model, data, lora, ${name}, training.`,
    ) as CliCommand;
  table.addFlags(command);
  return command.action(async (configFile: string | undefined, flags: Readonly<Record<string, unknown>>) => {
    const given = givenSettings(configFile, flags, table);
    const settings = methodSettings(given, method, table);
    const json = Boolean(flags.json);
    await withPlaces<unknown>(given, () =>
      flags.dryRun ? methodDryRun(method, settings, json) : runMethod(method, settings, trainingOutput(json)),
    );
  }) as CliCommand;
}
