import type { Backend, DeviceTensor } from "../backends/backend.ts";
import { GraphError } from "../graph/types.ts";
import type { ModelAdapter } from "./adapter.ts";
import type { DecoderConfig } from "./config.ts";
import { ropeTable } from "./rope-table.ts";

export interface CausalLMParts {
  readonly backend: Backend;
  readonly config: DecoderConfig;
  /** config.json as it was read, to be written back. */
  readonly hfConfig: Readonly<Record<string, unknown>>;
  /** By Hugging Face's parameter name. */
  readonly parameters: Map<string, DeviceTensor>;
  /** Where the model came from: goes into adapter_config.json. */
  readonly nameOrPath: string;
  /** The folder or file that its weights were read from; left out: nameOrPath. */
  readonly path?: string;
  /** generation_config.json as it was read; null or left out: there was none. */
  readonly generationConfig?: Readonly<Record<string, unknown>> | null;
  /** What loading found odd but went on with. */
  readonly warnings?: readonly string[];
}

/** A causal language model: parameters in a backend's memory and, when one is attached, an adapter. */
export class CausalLM {
  readonly backend: Backend;
  /** Replaced, as hfConfig, when a score head is added, and only then. */
  config: DecoderConfig;
  hfConfig: Readonly<Record<string, unknown>>;
  readonly parameters: Map<string, DeviceTensor>;
  readonly nameOrPath: string;
  readonly path: string;
  readonly generationConfig: Readonly<Record<string, unknown>> | null;
  readonly warnings: readonly string[];
  /** The adapter that traced programs include. */
  adapter: ModelAdapter | null = null;
  /** Longest sequence the user means to train on (`fromPretrained`'s maxSeqLength); null: not said. */
  maxSeqLength: number | null = null;
  private rope: DeviceTensor | null = null;

  constructor(parts: CausalLMParts) {
    this.backend = parts.backend;
    this.config = parts.config;
    this.hfConfig = parts.hfConfig;
    this.parameters = parts.parameters;
    this.nameOrPath = parts.nameOrPath;
    this.path = parts.path ?? parts.nameOrPath;
    this.generationConfig = parts.generationConfig ?? null;
    this.warnings = parts.warnings ?? [];
  }

  /** A parameter of the base model. */
  parameter(name: string): DeviceTensor {
    const tensor = this.parameters.get(name);
    if (!tensor) throw new GraphError(`the model has no parameter "${name}"`);
    return tensor;
  }

  /** Rotary table for at least `positions` positions, grown as longer sequences come. */
  ropeTensor(positions: number): DeviceTensor {
    const { rope, headDim } = this.config;
    if (!this.rope || this.rope.shape[0]! < positions) {
      // Programs already compiled hold the old table's address, so it stays until the model goes.
      const table = ropeTable(rope, headDim, positions);
      this.rope = this.backend.createTensor("rope", "f32", [positions, headDim], { role: "constant" });
      this.rope.write(new Uint8Array(table.buffer));
      this.ropeTables.push(this.rope);
    }
    return this.rope;
  }
  private readonly ropeTables: DeviceTensor[] = [];

  /** Bytes the parameters hold. */
  get parameterBytes(): number {
    let bytes = 0;
    for (const tensor of this.parameters.values()) bytes += tensor.bytes;
    return bytes;
  }

  dispose(): void {
    for (const tensor of this.parameters.values()) tensor.dispose();
    for (const tensor of this.ropeTables) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
