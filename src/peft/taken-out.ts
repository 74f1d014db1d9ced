import type { DeviceTensor } from "../backends/backend.ts";
import type { LoraPair, ModelAdapter } from "../models/adapter.ts";
import type { CausalLM } from "../models/model.ts";
import type { AdapterTensor } from "./adapter.ts";
import { writeFloats } from "./weights.ts";

/**
 * The model as it was loaded, under an adapter that took the first values of its A and B out of the base weights: those
 * values, put back. It is what "without the adapter" means there (a reference model, `disableAdapter`).
 */
export class TakenOut implements ModelAdapter {
  private readonly pairs = new Map<string, LoraPair>();
  private readonly tensors: DeviceTensor[] = [];

  constructor({ backend }: CausalLM, tensors: readonly AdapterTensor[], start: ReadonlyMap<string, Float32Array>) {
    const halves = new Map<string, Map<AdapterTensor["kind"], DeviceTensor>>();
    for (const { name, shape, kind, target } of tensors) {
      const values = start.get(name);
      if (!values || !target) continue;
      const tensor = backend.createTensor(`${name}.first`, "f32", shape, { role: "adapter" });
      this.tensors.push(tensor);
      writeFloats(tensor, values);
      const own = halves.get(target.path) ?? new Map();
      halves.set(target.path, own.set(kind, tensor));
      const [a, b] = [own.get("A"), own.get("B")];
      if (a && b) this.pairs.set(target.path, { a, b, scale: target.scale, dropout: 0 });
    }
  }

  lora(module: string): LoraPair | undefined {
    return this.pairs.get(module);
  }

  loraEmbedding(): undefined {
    return undefined;
  }

  replacement(): undefined {
    return undefined;
  }

  dispose(): void {
    for (const tensor of this.tensors) tensor.dispose();
  }
}
