import type { BackendMemory } from "../backends/backend.ts";
import type { CallbackContext, LogRow, TrainerCallback } from "./callbacks.ts";
import { consoleRow } from "./console.ts";

export interface ProgressOptions {
  readonly memory: () => BackendMemory;
  /** Where to draw; standard error when left out. */
  readonly stream?: ProgressStream;
}

/** What of a stream is used. */
export interface ProgressStream {
  readonly isTTY?: boolean;
  /** Of the terminal; a line is as long as it is when left out. */
  readonly columns?: number;
  write(text: string): unknown;
}

const BAR = 24;

/** Log rows as plain lines: Hugging Face's PrinterCallback. */
export class PrinterCallback implements TrainerCallback {
  private readonly stream: ProgressStream;

  /** @param stream standard error when left out */
  constructor(stream: ProgressStream = process.stderr) {
    this.stream = stream;
  }

  onLog(_: CallbackContext, logs: LogRow): void {
    this.stream.write(`${consoleRow(logs)}\n`);
  }
}

/**
 * In a terminal one line redrawn: steps, loss, tokens/s, memory and time left, and whether completions are being generated,
 * below the log rows. Where there is no terminal, the log rows alone.
 */
export class ProgressCallback implements TrainerCallback {
  private readonly options: ProgressOptions;
  private readonly stream: ProgressStream;
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
    this.draw(state);
  }

  onRolloutBegin({ state }: CallbackContext, { completions }: LogRow): void {
    if (this.startTime > 0) this.draw(state, `, generating ${completions} completions …`);
  }

  onRolloutEnd({ state }: CallbackContext): void {
    if (this.startTime > 0) this.draw(state);
  }

  onSubstepEnd({ state }: CallbackContext): void {
    this.draw(state);
  }

  onStepEnd({ state }: CallbackContext): void {
    this.draw(state);
  }

  onLog({ state }: CallbackContext, logs: LogRow): void {
    if (logs.loss !== undefined) this.loss = logs.loss;
    this.stream.write(`${this.stream.isTTY ? "\r\x1b[K" : ""}${consoleRow(logs)}\n`);
    // Rows of an evaluation without a training have no bar below them.
    if (this.startTime > 0) this.draw(state);
  }

  onTrainEnd({ state }: CallbackContext): void {
    this.draw(state);
    if (this.stream.isTTY) this.stream.write("\n");
    this.startTime = 0;
  }

  private draw(state: CallbackContext["state"], phase = ""): void {
    if (!this.stream.isTTY) return;
    // A line that wraps could not be drawn over: in a narrow terminal the bar goes first, then the end of the words.
    const width = (this.stream.columns || Number.POSITIVE_INFINITY) - 1;
    const text = `${this.status(state)}${phase}`;
    const bar = Math.min(BAR, width - text.length - 3);
    const filled = Math.min(bar, Math.round((bar * state.globalStep) / state.maxSteps));
    const line = bar < 1 ? text.slice(0, width) : `|${"█".repeat(filled)}${" ".repeat(bar - filled)}| ${text}`;
    this.stream.write(`\r\x1b[K${line}`);
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

function clock(seconds: number): string {
  const s = Math.round(seconds);
  const [hours, minutes] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60)];
  const two = (n: number): string => String(n).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(s % 60)}` : `${two(minutes)}:${two(s % 60)}`;
}

const gigabytes = (bytes: number): string => (bytes / 2 ** 30).toFixed(2);
