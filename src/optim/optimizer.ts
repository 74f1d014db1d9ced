import type { Backend, DeviceTensor, Executable } from "../backends/backend.ts";
import { Graph, type Value } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { numel, type Shape } from "../graph/types.ts";
import { binary, constantOp, mul } from "../ops/elementwise.ts";
import { adamw8bitOp, adamwOp, clearOp, clipFactor, sumSquares } from "../ops/optimizer.ts";
import { adam8bitSizes, usesAdam8bit } from "../quant/adam8bit.ts";
import { SIGNED_DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP } from "../quant/dynamic-maps.ts";
import { LossScaler } from "./loss-scaler.ts";

/** Largest finite f32. */
const LARGEST = 3.4028234663852886e38;

/**
 * Norm and clipping factor of gradients that a loss scaler has scaled: Σ is divided by the scale twice, the factor once
 * more, and it is 0 where the norm is not finite, whether there is clipping or not.
 */
function unscaled(graph: Graph, sumOfSquares: Value, maxNorm: Value): { norm: Value; factor: Value } {
  const unscale = graph.input("unscale", "f32", [1]);
  // Squares of what was scaled by 65,536 stay far below f32's limit: no square root is needed before the division.
  const { norm, factor } = clipFactor(mul(mul(sumOfSquares, unscale), unscale), maxNorm);
  const [largest] = graph.apply(constantOp, [], { value: LARGEST });
  const finite = binary("greater", largest!, norm);
  return { norm, factor: mul(mul(factor, unscale), finite) };
}

/** A tensor that training changes. */
export interface Trainable {
  /** Its name in saved files. */
  readonly name: string;
  readonly tensor: DeviceTensor;
  /** Whether weight decay applies (not to biases and norms). */
  readonly decay: boolean;
  /** Embeddings keep 32-bit optimizer states (bitsandbytes). */
  readonly embedding?: boolean;
  /** A copy of a whole module's weight, trained beside low-rank updates (modules_to_save). */
  readonly full?: boolean;
  /** Its learning rate as a multiple of the schedule's; 1 when left out. */
  readonly rate?: number;
}

/**
 * Looks at gradients between an update and their clearing (AdaLoRA's importance). They are not clipped: `factor` is what
 * clipping multiplied them by. Not called for a step that was skipped.
 */
export type GradientWatcher = (factor: number) => Promise<void>;

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  /** Keep both states in 8 bits where the tensor is large enough. */
  readonly eightBit: boolean;
  /** Scales the loss; when left out, one where the backend computes in f16, none elsewhere. */
  readonly lossScaler?: LossScaler | null;
}

/** Gradient buffers and AdamW states of the trained tensors, and the program of one optimizer step. */
export class Optimizer {
  readonly trainables: readonly Trainable[];
  readonly options: AdamWOptions;
  /** What gradients are multiplied with until they are used; null: nothing. */
  readonly lossScaler: LossScaler | null;
  /** Optimizer steps done. */
  step = 0;
  /** To be set before the first step. */
  watcher: GradientWatcher | null = null;
  private readonly backend: Backend;
  /** Each has an input of its own with the numbers of a step. */
  private readonly rates: readonly number[];
  private readonly gradients = new Map<Trainable, DeviceTensor>();
  private readonly states = new Map<Trainable, Map<string, DeviceTensor>>();
  private maps: DeviceTensor[] = [];
  private executable: Executable | null = null;
  private clearing: Executable | null = null;

  constructor(backend: Backend, trainables: readonly Trainable[], options: AdamWOptions) {
    this.backend = backend;
    this.trainables = trainables;
    this.options = options;
    this.rates = [...new Set(trainables.map(rateOf))];
    const { lossScaler = backend.computeDtype === "f16" ? new LossScaler() : null } = options;
    this.lossScaler = lossScaler;
    try {
      for (const trainable of trainables) this.createState(trainable);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** The buffer that gradients of microbatches add up in. */
  gradient(trainable: Trainable): DeviceTensor {
    return this.gradients.get(trainable)!;
  }

  /**
   * One update with the gradients accumulated so far, which are cleared. A step with a non-finite gradient norm changes
   * nothing; with a loss scaler it does not count as one either, and lowers the scale. Returns the gradient norm before
   * clipping, of the gradients as they are without a scale.
   */
  async update(learningRate: number, maxGradNorm: number): Promise<number> {
    this.step++;
    const { beta1, beta2, epsilon, weightDecay } = this.options;
    const rest = [beta1, beta2, epsilon, weightDecay, 1 - beta1 ** this.step, Math.sqrt(1 - beta2 ** this.step), 0];
    const hyper = this.rates.map((rate, i) => [hyperName(i), Float32Array.of(rate * learningRate, ...rest)]);
    this.executable ??= this.compile("optimizer step", (graph) => this.trace(graph));
    const { lossScaler } = this;
    const { norm, factor } = await this.executable.execute({
      ...Object.fromEntries(hyper),
      maxNorm: Float32Array.of(maxGradNorm),
      ...(lossScaler && { unscale: Float32Array.of(1 / lossScaler.scale) }),
    });
    const finite = Number.isFinite(norm![0]!);
    if (this.watcher) {
      if (finite) await this.watcher(factor![0]!);
      this.clearing ??= this.compile("clear gradients", (graph) => this.traceClearing(graph));
      await this.clearing.execute({});
    }
    lossScaler?.update(finite);
    if (lossScaler && !finite) this.step--;
    return norm![0]!;
  }

  /** State tensors by the names they are saved under. */
  stateTensors(): Map<string, DeviceTensor> {
    const all = new Map<string, DeviceTensor>();
    for (const [{ name }, states] of this.states) for (const [key, tensor] of states) all.set(`${name}.${key}`, tensor);
    return all;
  }

  dispose(): void {
    this.executable?.dispose();
    this.clearing?.dispose();
    for (const tensor of this.gradients.values()) tensor.dispose();
    for (const states of this.states.values()) for (const tensor of states.values()) tensor.dispose();
    for (const tensor of this.maps) tensor.dispose();
  }

  private isEightBit({ tensor, embedding }: Trainable): boolean {
    return this.options.eightBit && usesAdam8bit(numel(tensor.shape), { isEmbedding: embedding ?? false });
  }

  private createState(trainable: Trainable): void {
    const { backend } = this;
    const { name, tensor } = trainable;
    this.gradients.set(trainable, backend.createTensor(`${name}.grad`, "f32", tensor.shape, { role: "gradient" }));
    const states = new Map<string, DeviceTensor>();
    this.states.set(trainable, states);
    const create = (key: string, dtype: "u8" | "f32", shape: Shape): void => {
      states.set(key, backend.createTensor(`${name}.${key}`, dtype, shape, { role: "optimizer" }));
    };
    if (!this.isEightBit(trainable)) {
      for (const key of ["exp_avg", "exp_avg_sq"]) create(key, "f32", tensor.shape);
      return;
    }
    const sizes = adam8bitSizes(numel(tensor.shape));
    // Fresh tensors are zero, which is bitsandbytes' state before the first step. The order is the kernel's.
    for (const key of ["state1", "absmax1", "state2", "absmax2"] as const) {
      create(key, key.startsWith("state") ? "u8" : "f32", [sizes[key]]);
    }
  }

  private compile(name: string, trace: (graph: Graph) => void): Executable {
    const graph = new Graph();
    graph.inPhase("update", () => trace(graph));
    const { workspaceOf, rates } = this.backend;
    return this.backend.compile(plan(graph, { workspaceOf, rates, name }));
  }

  private traceClearing(graph: Graph): void {
    for (const gradient of this.gradients.values()) graph.apply(clearOp, [graph.use(gradient, { mutable: true })], {});
  }

  private trace(graph: Graph): void {
    const hypers = new Map(this.rates.map((rate, i) => [rate, graph.input(hyperName(i), "f32", [8])]));
    const maxNorm = graph.input("maxNorm", "f32", [1]);
    const gradients = this.trainables.map((t) => graph.use(this.gradient(t), { mutable: true }));
    const { norm, factor } = this.lossScaler
      ? unscaled(graph, sumSquares(gradients), maxNorm)
      : clipFactor(sumSquares(gradients), maxNorm);
    graph.output("norm", norm);
    if (this.watcher) graph.output("factor", factor);
    const eightBitMaps = this.trainables.some((t) => this.isEightBit(t)) ? this.quantMaps(graph) : [];
    this.trainables.forEach((trainable, i) => {
      const gradient = gradients[i]!;
      const parameter = graph.use(trainable.tensor, { mutable: true });
      const states = [...this.states.get(trainable)!.values()].map((t) => graph.use(t, { mutable: true }));
      const attrs = { decay: trainable.decay };
      const hyper = hypers.get(rateOf(trainable))!;
      graph.scope(trainable.name, () => {
        if (this.isEightBit(trainable)) {
          graph.apply(adamw8bitOp, [parameter, gradient, ...states, ...eightBitMaps, hyper, factor], attrs);
        } else {
          graph.apply(adamwOp, [parameter, gradient, ...states, hyper, factor], attrs);
        }
        if (!this.watcher) graph.apply(clearOp, [gradient], {});
      });
    });
  }

  private quantMaps(graph: Graph): Value[] {
    this.maps = [SIGNED_DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP].map((map, i) => {
      const tensor = this.backend.createTensor(`quant_map${i + 1}`, "f32", [256], { role: "constant" });
      tensor.write(new Uint8Array(map.buffer, map.byteOffset, map.byteLength));
      return tensor;
    });
    return this.maps.map((tensor) => graph.use(tensor));
  }
}

const rateOf = ({ rate = 1 }: Trainable): number => rate;
const hyperName = (index: number): string => (index === 0 ? "hyper" : `hyper${index}`);
