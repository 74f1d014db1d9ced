import { existsSync } from "node:fs";
import { join } from "node:path";
import type { DeviceTensor } from "../backends/backend.ts";
import { FrozenAdapter, hasEffect, type LoraAdapter } from "../peft/index.ts";
import type { TrainingArguments } from "./arguments.ts";
import { getLastCheckpoint } from "./checkpoint-folders.ts";
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
    this.taken ??= this.copyNow(forget);
    return this.taken;
  }

  /**
   * Before a training: takes the copy, or goes back to that of the checkpoint that is resumed. `forget` drops what was traced
   * or computed with another reference.
   */
  async begin({ resumeFromCheckpoint }: TrainOptions, args: TrainingArguments, forget: () => void): Promise<void> {
    const from = resumeFromCheckpoint ?? args.resumeFromCheckpoint;
    const folder = from === true ? await getLastCheckpoint(args.outputDir) : from;
    if (!folder) return this.take(forget);
    // Not the policy's: where there is none, training began from the base model.
    const file = join(folder, FILE);
    this.taken ??= Promise.resolve();
    forget();
    if (existsSync(file)) {
      this.copy ??= await FrozenAdapter.of(this.source);
      await readTensors(file, byName(this.copy));
    } else {
      this.copy?.dispose();
      this.copy = null;
    }
  }

  /** Into a checkpoint. */
  async save(folder: string): Promise<void> {
    if (this.copy) await writeTensors(join(folder, FILE), byName(this.copy), {});
  }

  dispose(): void {
    this.copy?.dispose();
  }

  private async copyNow(forget: () => void): Promise<void> {
    if (!(await hasEffect(this.source))) return;
    this.copy = await FrozenAdapter.of(this.source);
    forget();
  }
}

const byName = ({ tensors }: FrozenAdapter): Map<string, DeviceTensor> =>
  new Map(tensors.map(({ name, tensor }) => [name, tensor]));
