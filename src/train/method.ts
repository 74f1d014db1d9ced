import type { Optimizer } from "../optim/optimizer.ts";
import type { LogRow } from "./callbacks.ts";

/** What an adapter's method does in a training beside gradient descent (AdaLoRA). The trainer calls it by itself. */
export interface TrainingMethod {
  /** When the number of optimizer steps is known, or known anew. Throws OptionError when the method cannot do with it. */
  begin(maxSteps: number): void;
  /** Before the update of a step, counted from 0: may add to gradients. Gives what it adds to the step's loss. */
  beforeUpdate(step: number): Promise<number>;
  /** After the update, before callbacks. Gives what to log, if anything. */
  afterUpdate(step: number): Promise<LogRow | null>;
  /** Writes what there is to show of the training so far. */
  report(outputDir: string): Promise<void>;
  /** When training has ended, not to be resumed. */
  end(): Promise<void>;
  /** Its state in a checkpoint, the tensors it trains included; `load` goes on from it, bit for bit. Throws FormatError. */
  save(folder: string): Promise<void>;
  load(folder: string): Promise<void>;
  dispose(): void;
}

/** Makes the method of an adapter's training; the optimizer holds the gradients. */
export type MakeMethod = (optimizer: Optimizer) => TrainingMethod;
