import type { BackendMemory } from "../backends/backend.ts";
import type { CallbackContext, LogRow, TrainerCallback } from "./callbacks.ts";

export interface ProgressOptions {
  readonly memory: () => BackendMemory;
  /** Print nothing. */
  readonly quiet?: boolean;
  readonly stream?: NodeJS.WriteStream;
}

const BAR = 24;

/**
 * Steps, loss, tokens/s, memory and time left: one line redrawn in a terminal, and Hugging Face's log rows as plain lines
 * where there is none.
 */
export class ProgressCallback implements TrainerCallback {
  private readonly options: ProgressOptions;
  private readonly stream: NodeJS.WriteStream;
  private startTime = 0;
  private startTokens = 0;
  private startStep = 0;
  private loss = Number.NaN;

  constructor(options: ProgressOptions) {
    this.options = options;
    this.stream = options.stream ?? process.stderr;
  }

  onTrainBegin({ state }: CallbackContext): void {
    this.startTime = performance.now();
    this.startTokens = state.numInputTokensSeen;
    this.startStep = state.globalStep;
    if (this.stream.isTTY) this.draw(state);
  }

  onSubstepEnd({ state }: CallbackContext): void {
    if (this.stream.isTTY) this.draw(state);
  }

  onStepEnd({ state }: CallbackContext): void {
    if (this.stream.isTTY) this.draw(state);
  }

  onLog({ state }: CallbackContext, logs: LogRow): void {
    if (logs.loss !== undefined) this.loss = logs.loss;
    this.line(format(logs), state);
  }

  onEvaluate({ state }: CallbackContext, metrics: LogRow): void {
    this.line(format(metrics), state);
  }

  onTrainEnd({ state }: CallbackContext): void {
    if (this.options.quiet || !this.stream.isTTY) return;
    this.draw(state);
    this.stream.write("\n");
  }

  private line(text: string, state: CallbackContext["state"]): void {
    if (this.options.quiet) return;
    if (!this.stream.isTTY) {
      this.stream.write(`${text}  ${this.status(state)}\n`);
      return;
    }
    this.stream.write(`\r\x1b[K${text}\n`);
    this.draw(state);
  }

  private draw(state: CallbackContext["state"]): void {
    if (this.options.quiet) return;
    const filled = Math.round((BAR * state.globalStep) / state.maxSteps);
    this.stream.write(`\r\x1b[K|${"█".repeat(filled)}${" ".repeat(BAR - filled)}| ${this.status(state)}`);
  }

  private status({ globalStep, maxSteps, numInputTokensSeen }: CallbackContext["state"]): string {
    const seconds = (performance.now() - this.startTime) / 1000;
    const tokens = numInputTokensSeen - this.startTokens;
    const done = globalStep - this.startStep;
    const left = done > 0 ? clock(((maxSteps - globalStep) * seconds) / done) : "?";
    const rate = tokens > 0 ? `${Math.round(tokens / seconds)} tokens/s` : "…";
    const loss = Number.isNaN(this.loss) ? "" : ` loss ${this.loss.toFixed(4)},`;
    return `step ${globalStep}/${maxSteps},${loss} ${rate}, ${gigabytes(this.options.memory().allocated)} GiB, ${left} left`;
  }
}

function format(row: LogRow): string {
  const cells = Object.entries(row).map(([key, value]) => `'${key}': ${Number(value.toPrecision(4))}`);
  return `{${cells.join(", ")}}`;
}

function clock(seconds: number): string {
  const s = Math.round(seconds);
  const [hours, minutes] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60)];
  const two = (n: number): string => String(n).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(s % 60)}` : `${two(minutes)}:${two(s % 60)}`;
}

const gigabytes = (bytes: number): string => (bytes / 2 ** 30).toFixed(2);
