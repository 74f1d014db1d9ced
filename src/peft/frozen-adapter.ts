import type { Backend, DeviceTensor } from "../backends/backend.ts";
import type { LoraPair, ModelAdapter, TokenRows } from "../models/adapter.ts";
import type { AdapterTensor, LoraAdapter } from "./adapter.ts";
import { baseParameter } from "./attach.ts";
import type { LoraTarget } from "./targets.ts";
import { openWeight, PIECE } from "./weights.ts";

/** An adapter as it was at one moment: copies of what training changes, the rest shared with it. Without dropout. */
export class FrozenAdapter implements ModelAdapter {
  /** The copies, under the adapter's names. */
  readonly tensors: readonly AdapterTensor[];
  private readonly source: LoraAdapter;
  private readonly copies: ReadonlyMap<DeviceTensor, DeviceTensor>;

  private constructor(source: LoraAdapter, tensors: readonly AdapterTensor[]) {
    this.source = source;
    this.tensors = tensors;
    this.copies = new Map(source.tensors.map(({ tensor }, i) => [tensor, tensors[i]!.tensor]));
  }

  /** A copy of an adapter's tensors as they are now. It needs the adapter for as long as it is used. */
  static async of(source: LoraAdapter): Promise<FrozenAdapter> {
    const { backend } = source.model;
    const copies: AdapterTensor[] = [];
    try {
      for (const one of source.tensors) {
        const { tensor } = one;
        const copy = backend.createTensor(`${one.name}.frozen`, tensor.dtype, tensor.shape, { role: "adapter" });
        copies.push({ ...one, tensor: copy });
        copy.write(await tensor.read());
      }
      return new FrozenAdapter(source, copies);
    } catch (error) {
      for (const { tensor } of copies) tensor.dispose();
      throw error;
    }
  }

  get config(): LoraAdapter["config"] {
    return this.source.config;
  }

  lora(module: string): LoraPair | undefined {
    return this.copyOf(this.source.lora(module));
  }

  loraEmbedding(module: string): LoraPair | undefined {
    return this.copyOf(this.source.loraEmbedding(module));
  }

  tokenRows(module: string): TokenRows | undefined {
    const tokens = this.source.tokenRows(module);
    return tokens && { ...tokens, rows: this.copies.get(tokens.rows)! };
  }

  replacement(parameter: string): DeviceTensor | undefined {
    const tensor = this.source.replacement(parameter);
    return tensor && (this.copies.get(tensor) ?? tensor);
  }

  dispose(): void {
    for (const { tensor } of this.tensors) tensor.dispose();
  }

  private copyOf(pair: LoraPair | undefined): LoraPair | undefined {
    if (!pair) return undefined;
    const { a, b, e, dora } = pair;
    const own = (tensor: DeviceTensor): DeviceTensor => this.copies.get(tensor)!;
    return {
      ...pair,
      a: own(a),
      b: own(b),
      e: e && own(e),
      dora: dora && { ...dora, magnitude: own(dora.magnitude) },
      dropout: 0,
    };
  }
}

/**
 * Whether a model with this adapter computes anything else than without it: not before the first step of a new adapter,
 * in which one factor of each update is 0, or whose A and B were taken out of the base weights.
 */
export async function hasEffect(adapter: LoraAdapter): Promise<boolean> {
  const { model, start, overrides, tensors } = adapter;
  if (overrides.size > 0) return true;
  const updates = new Map<LoraTarget, AdapterTensor[]>();
  for (const one of tensors) {
    // Magnitudes are what they were as long as the factors are.
    if (one.target && one.kind !== "magnitude") updates.set(one.target, [...(updates.get(one.target) ?? []), one]);
  }
  // The updates tell nearly always: copies of whole modules are read only when these do not.
  for (const factors of updates.values()) {
    const [first] = factors;
    const idle = start?.has(first!.name)
      ? await every(factors, ({ name, tensor }) => isAt(tensor, start.get(name)!))
      : !(await every(factors, async ({ tensor }) => !(await isAt(tensor, null))));
    if (!idle) return true;
  }
  for (const { parameters, tokens, tensor } of tensors) {
    const rows = tokens && adapter.tokenRows(tokens.path)!.originals;
    if (rows && (await differs(tensor, rows, model.backend))) return true;
    if (parameters.length > 0 && (await differs(tensor, baseParameter(model, parameters[0]!), model.backend)))
      return true;
  }
  return false;
}

async function every<T>(all: readonly T[], holds: (one: T) => Promise<boolean>): Promise<boolean> {
  // Last ones first: of a new adapter B or E is 0.
  for (const one of all.toReversed()) if (!(await holds(one))) return false;
  return true;
}

/** Whether a tensor holds these values; null: zeros. */
async function isAt(tensor: DeviceTensor, values: Float32Array | null): Promise<boolean> {
  const now = new Float32Array((await tensor.read()).buffer as ArrayBuffer);
  return now.every((value, i) => value === (values?.[i] ?? 0));
}

/** Whether a copy is no longer what the base model has. */
async function differs(copy: DeviceTensor, base: DeviceTensor, backend: Backend): Promise<boolean> {
  const now = new Float32Array((await copy.read()).buffer as ArrayBuffer);
  const original = await openWeight(backend, base);
  for (let at = 0; at < now.length; at += PIECE) {
    const values = original(at, Math.min(PIECE, now.length - at));
    if (values.some((value, i) => value !== now[at + i])) return true;
  }
  return false;
}
