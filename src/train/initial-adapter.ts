import { existsSync } from "node:fs";
import { join } from "node:path";
import type { DeviceTensor } from "../backends/backend.ts";
import { FrozenAdapter, hasEffect, type LoraAdapter } from "../peft/index.ts";
import type { TrainingArguments } from "./arguments.ts";
import { TRAINING } from "./checkpoint.ts";
import { getLastCheckpoint, tidyCheckpoints } from "./checkpoint-folders.ts";
import { readTensors, writeTensors } from "./tensor-files.ts";
import type { TrainOptions } from "./training-run.ts";

/** In checkpoints, of a training whose adapter had an effect before it. */
const FILE = "reference.safetensors";

/**
 * The adapter as it was before training, for a reference model: null where it had no effect yet, so that the base model
 * alone is the reference. TRL keeps it as an adapter "ref" in any case. A checkpoint has it, so that a training that is
 * resumed has the reference it began with, whatever adapter the model was loaded with since.
 */
export class InitialAdapter {
  private readonly source: LoraAdapter;
  private copy: FrozenAdapter | null = null;
  private taken: Promise<void> | null = null;

  constructor(source: LoraAdapter) {
    this.source = source;
  }

  /** Once `take` has ended. Programs traced before it must be traced again. */
  get adapter(): FrozenAdapter | null {
    return this.copy;
  }

  /** Takes the copy, if it has not been taken yet; `forget` then drops what was traced without it. */
  take(forget: () => void = () => undefined): Promise<void> {
    this.taken ??= this.copyNow(forget).catch((error: unknown) => {
      // Another attempt may have the memory that this one lacked.
      this.taken = null;
      throw error;
    });
    return this.taken;
  }

  /**
   * Before a training: takes the copy, or goes back to that of the checkpoint that is resumed. `forget` drops what was traced
   * or computed with another reference. Throws FormatError, the reference left as it was.
   */
  async begin({ resumeFromCheckpoint }: TrainOptions, args: TrainingArguments, forget: () => void): Promise<void> {
    const from = resumeFromCheckpoint ?? args.resumeFromCheckpoint;
    // Before the last one is looked for: resuming does so too.
    await tidyCheckpoints(args.outputDir);
    const folder = from === true ? await getLastCheckpoint(args.outputDir) : from;
    // What cannot be resumed is no reason to have another reference; resuming says what is wrong with it.
    if (!folder || !existsSync(join(folder, TRAINING))) return this.take(forget);
    const copy = await this.readCopy(join(folder, FILE));
    forget();
    this.copy?.dispose();
    this.copy = copy;
    this.taken = Promise.resolve();
  }

  /** Into a checkpoint. */
  async save(folder: string): Promise<void> {
    if (this.copy) await writeTensors(join(folder, FILE), byName(this.copy), {});
  }

  dispose(): void {
    this.copy?.dispose();
  }

  /** The copy of a checkpoint; null where it has none: that training began from the base model. */
  private async readCopy(file: string): Promise<FrozenAdapter | null> {
    if (!existsSync(file)) return null;
    const copy = await FrozenAdapter.of(this.source);
    try {
      await readTensors(file, byName(copy));
      return copy;
    } catch (error) {
      copy.dispose();
      throw error;
    }
  }

  private async copyNow(forget: () => void): Promise<void> {
    if (!(await hasEffect(this.source))) return;
    this.copy = await FrozenAdapter.of(this.source);
    forget();
  }
}

const byName = ({ tensors }: FrozenAdapter): Map<string, DeviceTensor> =>
  new Map(tensors.map(({ name, tensor }) => [name, tensor]));
