import { inspect } from "node:util";
import { CommanderError } from "commander";
import { TrainingInterrupted } from "../train/interrupt.ts";
import { OptionError } from "../util/options.ts";

/** What was typed, or a configuration file, is wrong: exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Ends the command with an exit code; everything has been said. */
export class SilentExit extends Error {
  override readonly name = "SilentExit";
  readonly exitCode: number;

  constructor(exitCode: number) {
    super(`exit code ${exitCode}`);
    this.exitCode = exitCode;
  }
}

/** The process's exit code for an error: 2 when the command was given wrongly, 1 (or its own) when it failed. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof UsageError || error instanceof OptionError) return 2;
  return error instanceof SilentExit || error instanceof TrainingInterrupted ? error.exitCode : 1;
}

/** What to print for an error: its message, made for people; the stack only when UNSLOTH_DEBUG is set. */
export function errorText(error: unknown, debug: boolean): string | null {
  // Commander has printed its own message, or it was --help.
  if (error instanceof CommanderError || error instanceof SilentExit) return null;
  if (error instanceof TrainingInterrupted) {
    const { step, checkpoint } = error;
    return `unsloth: training was interrupted after step ${step}; the same command with --resume goes on from ${checkpoint}\n`;
  }
  if (!(error instanceof Error)) return `unsloth: ${String(error)}\n`;
  return `unsloth: ${debug ? inspect(error) : error.message}\n`;
}
