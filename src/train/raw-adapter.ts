import { join } from "node:path";
import type { DeviceTensor } from "../backends/backend.ts";
import type { TrainingMethod } from "./method.ts";
import { readTensors, writeTensors } from "./tensor-files.ts";

const STATE = "adapter_state.safetensors";

/**
 * Keeps the trained tensors of an adapter whose file has them in another form (PiSSA's and OLoRA's are saved with their
 * first values beside them), so that checkpoints resume bit for bit.
 */
export class RawAdapter implements TrainingMethod {
  private readonly tensors: ReadonlyMap<string, DeviceTensor>;

  constructor(tensors: ReadonlyMap<string, DeviceTensor>) {
    this.tensors = tensors;
  }

  begin(): void {}

  async beforeUpdate(): Promise<number> {
    return 0;
  }

  async afterUpdate(): Promise<null> {
    return null;
  }

  async report(): Promise<void> {}

  async end(): Promise<void> {}

  save(folder: string): Promise<void> {
    return writeTensors(join(folder, STATE), this.tensors, {});
  }

  async load(folder: string): Promise<void> {
    await readTensors(join(folder, STATE), this.tensors);
  }

  dispose(): void {}
}
