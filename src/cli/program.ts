import { readFileSync } from "node:fs";
import { chatCommand } from "./chat/command.ts";
import { CliCommand } from "./command.ts";
import { dataCommand } from "./data.ts";
import { doctorCommand } from "./doctor/command.ts";
import { evalCommand } from "./eval/command.ts";
import { errorText, exitCodeOf } from "./exit.ts";
import { generateCommand } from "./generate.ts";
import { hubCommand } from "./hub.ts";
import { mergeCommand } from "./merge.ts";
import { methodCommand } from "./methods/command.ts";
import { GRPO } from "./methods/grpo.ts";
import { PPO } from "./methods/ppo.ts";
import { CPO, DPO, KTO, ORPO } from "./methods/preference.ts";
import { REWARD } from "./methods/reward.ts";
import { planCommand } from "./plan.ts";
import { sweepCommand } from "./sweep/command.ts";
import { writeError } from "./terminal.ts";
import { trainCommand } from "./train.ts";

/** This package's version. */
export const VERSION = (
  JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }
).version;

const METHODS = [DPO, CPO, ORPO, KTO, REWARD, GRPO, PPO];

/** The whole command line. */
export function createProgram(): CliCommand {
  const program = new CliCommand("unsloth")
    .description("Fine-tune open LLMs with LoRA and QLoRA")
    .version(VERSION)
    // Flags belong to the command before them: "sweep" and "sweep dpo" have many in common.
    .enablePositionalOptions()
    .addCommand(doctorCommand(VERSION), { isDefault: true })
    .addCommand(trainCommand());
  for (const method of METHODS) program.addCommand(methodCommand(method));
  program
    .addCommand(chatCommand())
    .addCommand(generateCommand())
    .addCommand(evalCommand())
    .addCommand(mergeCommand())
    .addCommand(planCommand())
    .addCommand(sweepCommand(METHODS))
    .addCommand(dataCommand())
    .addCommand(hubCommand());
  return program as CliCommand;
}

/** Runs one command line (without `node unsloth`), says what goes wrong, and gives the exit code: 0, 1 or 2. */
export async function run(args: readonly string[]): Promise<number> {
  try {
    const program = createProgram();
    const [first = "-"] = args;
    const known =
      first.startsWith("-") || first === "help" || program.commands.some((command) => command.name() === first);
    // Of a command that there is not, flags are of no interest.
    await program.parseAsync(known ? [...args] : [first], { from: "user" });
    return 0;
  } catch (error) {
    const text = errorText(error, Boolean(process.env.UNSLOTH_DEBUG));
    if (text !== null) writeError(text);
    return exitCodeOf(error);
  }
}
