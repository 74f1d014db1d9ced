import { writeFileSync } from "node:fs";
import { type CheckpointMode, planTraining, type TrainingPlan } from "../api/plan-training.ts";
import { drawMemory } from "../graph/draw.ts";
import { isEightBit } from "../train/arguments.ts";
import { CliCommand } from "./command.ts";
import { SilentExit, UsageError } from "./exit.ts";
import { planJson, planLines } from "./plan-report.ts";
import { withPlaces } from "./settings/placed-errors.ts";
import { givenSettings, required, TRAIN_TABLE, type TrainSettings, trainSettings } from "./settings/train-settings.ts";
import { note, parseBytes, print } from "./terminal.ts";

/** `unsloth plan`: will a training fit, and in how much memory? Loads no weights. */
export function planCommand(): CliCommand {
  const command = new CliCommand("plan")
    .description("will a training fit, and in how much memory? (loads no weights)")
    .argument("[config]", "YAML file of settings, as for train")
    .option("--memory <size>", "memory there is, e.g. 24GB (default: what is free here)")
    .option("--svg <file>", "draw where the step's memory goes")
    .option("--print", "print the step's program, one kernel a line")
    .option("--json", "the plan as JSON")
    .addHelpText(
      "after",
      `
Examples:
  unsloth plan --model Qwen/Qwen2.5-7B-Instruct --r 16 --max-seq-length 4096 --batch 2 --memory 24GB
  unsloth plan --model config.json --full-finetuning
  unsloth plan --model Qwen/Qwen2.5-7B-Instruct --device cuda --memory 24GB
  unsloth plan config.yaml --svg memory.svg

Exits with 1 when it does not fit.`,
    ) as CliCommand;
  TRAIN_TABLE.addFlags(command);
  return command.action(runPlan) as CliCommand;
}

interface PlanFlags extends Readonly<Record<string, unknown>> {
  readonly memory?: string;
  readonly svg?: string;
  readonly print?: boolean;
  readonly json?: boolean;
}

async function runPlan(configFile: string | undefined, flags: PlanFlags): Promise<void> {
  const memory = flags.memory === undefined ? null : parseBytes(flags.memory);
  if (flags.memory !== undefined && memory === null) {
    throw new UsageError(`--memory needs a size such as 24GB, found "${flags.memory}"`);
  }
  const given = givenSettings(configFile, flags);
  const settings = trainSettings(given);
  const options = { ...planOptions(settings), ...(memory !== null && { memory }) };
  const plan = await withPlaces(given, () => planTraining(options));
  const program = chosen(plan, settings);
  if (flags.svg !== undefined) {
    if (!program) throw new Error("--svg: there is no step to draw, as none fits");
    writeFileSync(flags.svg, drawMemory(program));
    note(`drawn to ${flags.svg}`);
  }
  if (flags.json) print(JSON.stringify(planJson(plan), null, 2));
  else if (flags.print && program) print(program.print());
  else for (const line of planLines(plan)) print(line);
  if (!plan.fits) throw new SilentExit(1);
}

/** What planning needs of a training's settings. */
export function planOptions({ model, lora, sft, args }: TrainSettings) {
  const { model: name, adapter: _, revision, ...loading } = model;
  return {
    ...loading,
    modelName: required(name, "model", "PATH"),
    lora,
    maxSeqLength: (sft.maxSeqLength as number | null | undefined) ?? undefined,
    batchSize: args.perDeviceTrainBatchSize as number,
    activationOffloading: sft.activationOffloading as boolean | undefined,
    activationHostMemory: sft.activationHostMemory as number | null | undefined,
    eightBit: isEightBit((args.optim ?? "adamw_torch") as Parameters<typeof isEightBit>[0]),
    hub: { revision },
  };
}

/** The program under the settings' checkpointing. */
function chosen(plan: TrainingPlan, { lora }: TrainSettings) {
  const setting = lora.useGradientCheckpointing ?? "unsloth";
  const mode: CheckpointMode = setting === "unsloth" ? "unsloth" : setting ? "recompute" : "keep";
  return plan.modes.find((candidate) => candidate.mode === mode)?.program ?? null;
}
