/** Training was stopped from outside; what it had reached has been saved. */
export class TrainingInterrupted extends Error {
  override readonly name = "TrainingInterrupted";
  /** Optimizer steps done. */
  readonly step: number;
  /** The checkpoint to go on from. */
  readonly checkpoint: string;
  /** What a shell expects of a program stopped with Ctrl-C. */
  readonly exitCode = 130;

  constructor(step: number, checkpoint: string) {
    super(`training was interrupted after step ${step}; resumeFromCheckpoint: "${checkpoint}" goes on from there`);
    this.step = step;
    this.checkpoint = checkpoint;
  }
}

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/**
 * Whether training has been asked to stop: by SIGINT (Ctrl-C), SIGTERM or an AbortSignal. The first signal only asks; a
 * second one does what it would have done without this. Dispose of it to leave signals alone again.
 */
export class Interrupt {
  private readonly abort: AbortSignal | null;
  private readonly notice: (text: string) => void;
  private signalled = false;

  constructor(abort: AbortSignal | null, notice: (text: string) => void) {
    this.abort = abort;
    this.notice = notice;
    for (const signal of SIGNALS) process.on(signal, this.onSignal);
  }

  get requested(): boolean {
    return this.signalled || (this.abort?.aborted ?? false);
  }

  [Symbol.dispose](): void {
    for (const signal of SIGNALS) process.off(signal, this.onSignal);
  }

  private readonly onSignal = (signal: NodeJS.Signals): void => {
    if (this.signalled) {
      this[Symbol.dispose]();
      process.kill(process.pid, signal);
      return;
    }
    this.signalled = true;
    this.notice(`\n${signal}: finishing this step and saving; once more to stop at once\n`);
  };
}
