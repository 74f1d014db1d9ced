import type { DeviceTensor, PartName } from "../backends/backend.ts";
import type { CausalLM } from "../models/model.ts";

/**
 * Changes of a model's weights that are kept together or not at all. Until `commit`, what they replace is held: bytes in host
 * memory (as much as the changed weights have), and tensors that others have taken the place of.
 */
export class BaseChanges {
  readonly #model: CausalLM;
  readonly #undos: (() => void)[] = [];
  readonly #known = new Set<DeviceTensor>();
  #replaced: DeviceTensor[] = [];

  constructor(model: CausalLM) {
    this.#model = model;
  }

  /** To be called before a tensor of the model is written to. */
  async keep(tensor: DeviceTensor): Promise<void> {
    if (this.#known.has(tensor)) return;
    const parts: [PartName, Uint8Array][] = [];
    for (const part of tensor.parts.keys()) parts.push([part, await tensor.read(part)]);
    const { nestedOffset } = tensor;
    this.#known.add(tensor);
    this.#undos.push(() => {
      for (const [part, bytes] of parts) tensor.write(bytes, { part });
      tensor.nestedOffset = nestedOffset;
    });
  }

  /** Puts a tensor, which is the model's from now on, in a parameter's place. */
  replace(name: string, tensor: DeviceTensor): void {
    const { parameters } = this.#model;
    const old = this.#model.parameter(name);
    parameters.set(name, tensor);
    this.#known.add(tensor);
    this.#replaced.push(old);
    this.#undos.push(() => {
      parameters.set(name, old);
      tensor.dispose();
    });
  }

  /** The changes stay; frees what they replaced. */
  commit(): void {
    for (const tensor of this.#replaced) tensor.dispose();
    this.#replaced = [];
    this.#undos.length = 0;
  }

  /** Every weight as it was, because of `error`; throws an error that says so where that fails. */
  undo(error: unknown): void {
    const failed: unknown[] = [];
    for (const step of this.#undos.reverse()) {
      try {
        step();
      } catch (cause) {
        failed.push(cause);
      }
    }
    this.#undos.length = 0;
    this.#replaced = [];
    if (failed.length === 0) return;
    const message = `${failed.length} of the model's weights could not be put back after an error: load the model again`;
    throw new AggregateError([error, ...failed], message, { cause: error });
  }
}
