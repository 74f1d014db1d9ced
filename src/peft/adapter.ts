import type { DeviceTensor } from "../backends/backend.ts";
import { numel } from "../graph/types.ts";
import type { LoraPair, ModelAdapter, TokenRows } from "../models/adapter.ts";
import type { CausalLM } from "../models/model.ts";
import type { Trainable } from "../optim/optimizer.ts";
import type { AdaLora } from "./adalora.ts";
import type { DoraConstants } from "./dora.ts";
import { type AdapterTensorSpec, EMBEDDING_WEIGHT, HEAD_WEIGHT } from "./layout.ts";
import type { LoraConfig } from "./lora-config.ts";
import { TakenOut } from "./taken-out.ts";
import type { LoraTarget } from "./targets.ts";
import type { TokenConstants } from "./token-rows.ts";

/** One tensor of an adapter, in the backend's memory, f32. */
export interface AdapterTensor extends AdapterTensorSpec {
  readonly tensor: DeviceTensor;
}

export interface ParameterCount {
  readonly trainable: number;
  /** The base model's included. */
  readonly all: number;
}

export interface LoraAdapterParts {
  readonly model: CausalLM;
  readonly config: LoraConfig;
  readonly targets: readonly LoraTarget[];
  readonly tensors: readonly AdapterTensor[];
  /** Base weights the adapter's file holds in another state than the model: frozen, used instead of the model's own. */
  readonly overrides?: ReadonlyMap<string, DeviceTensor>;
  /** Of an AdaLoRA adapter; `config` is then the LoRA configuration it extends. */
  readonly adalora?: AdaLora | null;
  /** The A and B that the base weights were changed by when it was made (PiSSA, OLoRA), by tensor name. */
  readonly start?: ReadonlyMap<string, Float32Array> | null;
  /** Of a DoRA adapter. */
  readonly dora?: DoraConstants | null;
  /** Of an adapter that trains rows of tables. */
  readonly tokenRows?: TokenConstants | null;
  /** adapter_config.json as it was read; null for a new adapter. */
  readonly fileConfig?: Readonly<Record<string, unknown>> | null;
  readonly isTrainable: boolean;
  readonly warnings: readonly string[];
}

/**
 * A LoRA adapter (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021): for each targeted module
 * y += s·(dropout(x)·Aᵀ)·Bᵀ, A [r, in] and B [out, r], with what AdaLoRA and DoRA add to that; and copies of the parameters
 * that are trained in full.
 *
 * In use while it is its model's `adapter`. Tied embeddings: as in PEFT, training one side leaves the other on the base
 * model's table, unless `ensureWeightTying` made them one.
 */
export class LoraAdapter implements ModelAdapter {
  readonly model: CausalLM;
  readonly config: LoraConfig;
  readonly targets: readonly LoraTarget[];
  readonly tensors: readonly AdapterTensor[];
  readonly overrides: ReadonlyMap<string, DeviceTensor>;
  readonly adalora: AdaLora | null;
  /** What is to be taken from A and B for the weights that the model was loaded with; null: nothing. */
  readonly start: ReadonlyMap<string, Float32Array> | null;
  readonly fileConfig: Readonly<Record<string, unknown>> | null;
  readonly isTrainable: boolean;
  /** What was odd about the configuration or the file, but went on. */
  readonly warnings: readonly string[];
  private readonly dora: DoraConstants | null;
  private readonly tokens: TokenConstants | null;
  private takenOut: TakenOut | null = null;
  private readonly pairs = new Map<string, LoraPair>();
  private readonly embeddingPairs = new Map<string, LoraPair>();
  private readonly replacements = new Map<string, DeviceTensor>();

  constructor(parts: LoraAdapterParts) {
    this.model = parts.model;
    this.config = parts.config;
    this.targets = parts.targets;
    this.tensors = parts.tensors;
    this.overrides = parts.overrides ?? new Map();
    this.adalora = parts.adalora ?? null;
    this.dora = parts.dora ?? null;
    this.tokens = parts.tokenRows ?? null;
    this.start = parts.start && parts.start.size > 0 ? parts.start : null;
    this.fileConfig = parts.fileConfig ?? null;
    this.isTrainable = parts.isTrainable;
    this.warnings = parts.warnings;
    const byTarget = new Map<LoraTarget, Map<AdapterTensorSpec["kind"], DeviceTensor>>();
    for (const { target, kind, tensor } of this.tensors) {
      if (target) byTarget.set(target, (byTarget.get(target) ?? new Map()).set(kind, tensor));
    }
    for (const [target, own] of byTarget) {
      const magnitude = own.get("magnitude");
      const pair = {
        a: own.get("A")!,
        b: own.get("B")!,
        e: own.get("E"),
        scale: target.scale,
        dropout: this.config.loraDropout,
        dora: magnitude && this.dora?.tensors(target),
      };
      (target.kind === "embedding" ? this.embeddingPairs : this.pairs).set(target.path, pair);
    }
    for (const { parameters, tensor } of this.tensors) {
      for (const parameter of parameters) this.replacements.set(parameter, tensor);
    }
  }

  /** The model without this adapter: nothing, unless it has changed the base weights. Made when first asked for. */
  get base(): TakenOut | null {
    if (this.start) this.takenOut ??= new TakenOut(this.model, this.tensors, this.start);
    return this.takenOut;
  }

  lora(module: string): LoraPair | undefined {
    return this.pairs.get(module);
  }

  loraEmbedding(module: string): LoraPair | undefined {
    return this.embeddingPairs.get(module);
  }

  tokenRows(module: string): TokenRows | undefined {
    return this.tokens?.of(module);
  }

  replacement(parameter: string): DeviceTensor | undefined {
    const own = this.replacements.get(parameter) ?? this.overrides.get(parameter);
    if (own || parameter !== HEAD_WEIGHT || !this.model.config.tiedHead) return own;
    // The trained copy is the embedding's only: the head, though tied, stays on the table it had.
    return this.replacements.has(EMBEDDING_WEIGHT) ? this.model.parameter(EMBEDDING_WEIGHT) : undefined;
  }

  /** The copy that takes a parameter's place when the adapter is merged; not those that only keep a head where it was. */
  copyOf(parameter: string): DeviceTensor | undefined {
    return this.replacements.get(parameter) ?? this.overrides.get(parameter);
  }

  /** What training changes, by PEFT's names; nothing when the adapter was loaded for use only. */
  trainable(): Trainable[] {
    if (!this.isTrainable) return [];
    return this.tensors.map(({ name, tensor, decay, kind, parameters }) => ({
      name,
      tensor,
      decay,
      embedding: kind === "saved" && parameters.includes(EMBEDDING_WEIGHT),
      full: kind === "saved" && name.endsWith(".weight"),
    }));
  }

  /** Numbers of parameters as PEFT counts them: copies of whole modules come on top of the model's, biases do not. */
  parameterCount(): ParameterCount {
    const own = this.tensors.map(({ shape, kind }) => ({ count: numel(shape), added: kind !== "bias" }));
    const base = [...this.model.parameters.values()].reduce((sum, { shape }) => sum + numel(shape), 0);
    // PEFT's AdaLoRA has a parameter of one number a module that is not trained, its rank.
    const ranks = this.adalora ? this.targets.length : 0;
    return {
      trainable: this.isTrainable ? own.reduce((sum, { count }) => sum + count, 0) : 0,
      all: own.reduce((sum, { count, added }) => sum + (added ? count : 0), base + ranks),
    };
  }

  /** Frees the adapter's tensors, taking it off its model first. */
  dispose(): void {
    if (this.model.adapter === this) this.model.adapter = null;
    for (const { tensor } of this.tensors) tensor.dispose();
    for (const tensor of this.overrides.values()) tensor.dispose();
    this.dora?.dispose();
    this.tokens?.dispose();
    this.takenOut?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
