import type { Backend, BackendMemory, Executable } from "../backends/backend.ts";
import type { Batch } from "../data/collate.ts";
import { differentiate } from "../graph/autodiff.ts";
import { Graph, type Value } from "../graph/graph.ts";
import { type CheckpointPolicy, plan } from "../graph/plan.ts";
import type { Program } from "../graph/program.ts";
import { DecoderTrace, type TokenInputs } from "../models/decoder.ts";
import type { CausalLM } from "../models/model.ts";
import { LOSS_METRICS, type Loss } from "../ops/cross-entropy.ts";
import { constantOp } from "../ops/elementwise.ts";
import type { Optimizer } from "../optim/optimizer.ts";

/** Sums over the trained tokens of one microbatch. */
export interface StepResult {
  /** This microbatch's part of the window's loss: lossScale·Σ CE. */
  readonly loss: number;
  readonly metrics: Readonly<Record<(typeof LOSS_METRICS)[number], number>>;
}

/** What a traced loss may use. */
export interface LossContext {
  readonly graph: Graph;
  readonly trace: DecoderTrace;
  readonly tokens: TokenInputs;
  /** i32[T], shifted: each token's label is the next token, −100 where nothing is trained. */
  readonly labels: Value;
  /** f32[1]: 1 / trained tokens of the accumulation window. */
  readonly lossScale: Value;
  readonly labelSmoothing: number;
}

/** The loss of a batch; the default is next-token cross-entropy. */
export type ComputeLoss = (context: LossContext) => Loss;

export const crossEntropyLoss: ComputeLoss = ({ trace, tokens, labels, lossScale, labelSmoothing }) =>
  trace.loss(trace.hidden(tokens), { labels, lossScale, labelSmoothing });

export interface StepOptions {
  readonly model: CausalLM;
  readonly optimizer: Optimizer;
  readonly computeLoss?: ComputeLoss | undefined;
  readonly policy: CheckpointPolicy;
  readonly offload?: boolean | undefined;
  /** Longest sequence: the rotary table's length. */
  readonly maxPositions: number;
  readonly labelSmoothing?: number | undefined;
}

/** Programs kept ready; a program of a length not seen lately is planned again. */
const CACHED_PROGRAMS = 64;

/** Forward and backward over one packed microbatch, and evaluation: programs cached by token count. */
export class StepRunner {
  private readonly options: StepOptions;
  private readonly backend: Backend;
  private readonly cache = new Map<string, Executable>();

  constructor(options: StepOptions) {
    this.options = options;
    this.backend = options.model.backend;
  }

  /** Add this microbatch's gradients to the buffers. `seed` draws the dropout masks. */
  train(batch: Batch, lossScale: number, seed: Uint32Array): Promise<StepResult> {
    return this.execute("train", batch, lossScale, seed);
  }

  /** The loss only, without dropout. */
  evaluate(batch: Batch, lossScale: number): Promise<StepResult> {
    return this.execute("eval", batch, lossScale, new Uint32Array(2));
  }

  /** The planned program for a number of tokens, compiled on first use. */
  program(mode: "train" | "eval", tokens: number): Program {
    return this.executable(mode, tokens).program;
  }

  memory(): BackendMemory {
    return this.backend.memory();
  }

  dispose(): void {
    for (const executable of this.cache.values()) executable.dispose();
    this.cache.clear();
  }

  private async execute(mode: "train" | "eval", batch: Batch, scale: number, seed: Uint32Array): Promise<StepResult> {
    const executable = this.executable(mode, batch.inputIds.length);
    const { inputIds: ids, positions, seqStart, seqEnd, labels } = batch;
    const all = { ids, positions, seqStart, seqEnd, labels, lossScale: Float32Array.of(scale), seed };
    const wanted = [...executable.program.inputs.keys()] as (keyof typeof all)[];
    const inputs = Object.fromEntries(wanted.map((name) => [name, all[name]]));
    const { loss, metrics } = await executable.execute(inputs);
    const named = Object.fromEntries(LOSS_METRICS.map((name, i) => [name, metrics![i]!])) as StepResult["metrics"];
    return { loss: loss![0]!, metrics: named };
  }

  private executable(mode: "train" | "eval", tokens: number): Executable {
    const key = `${mode}:${tokens}`;
    const found = this.cache.get(key);
    if (found) {
      this.cache.delete(key);
      this.cache.set(key, found);
      return found;
    }
    const executable = this.backend.compile(this.plan(mode, tokens));
    this.cache.set(key, executable);
    if (this.cache.size > CACHED_PROGRAMS) {
      const [oldest, stale] = this.cache.entries().next().value!;
      stale.dispose();
      this.cache.delete(oldest);
    }
    return executable;
  }

  private plan(mode: "train" | "eval", tokens: number): Program {
    const {
      model,
      optimizer,
      computeLoss = crossEntropyLoss,
      policy,
      offload,
      maxPositions,
      labelSmoothing = 0,
    } = this.options;
    const graph = new Graph();
    const labels = graph.input("labels", "i32", [tokens]);
    const lossScale = graph.input("lossScale", "f32", [1]);
    const training = mode === "train";
    const inputs: TokenInputs = {
      ids: graph.input("ids", "i32", [tokens]),
      positions: graph.input("positions", "i32", [tokens]),
      seqStart: graph.input("seqStart", "i32", [tokens]),
      seqEnd: graph.input("seqEnd", "i32", [tokens]),
    };
    const seed = training ? graph.input("seed", "u32", [2]) : null;
    const trace = new DecoderTrace(graph, model, { seed, maxPositions });
    const { loss, metrics } = computeLoss({
      graph,
      trace,
      tokens: inputs,
      labels,
      lossScale,
      labelSmoothing: training ? labelSmoothing : 0,
    });
    graph.output("loss", loss);
    graph.output("metrics", metrics);
    if (training) {
      const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
      const targets = optimizer.trainables.map((trainable) => ({
        value: graph.use(trainable.tensor),
        into: graph.use(optimizer.gradient(trainable), { mutable: true }),
      }));
      differentiate(graph, loss, targets, one);
    }
    const { workspaceOf, rates } = this.backend;
    return plan(graph, {
      workspaceOf,
      rates,
      policy: training ? policy : { kind: "keep" },
      offload: offload ?? false,
      name: `${mode} step, ${tokens} tokens`,
    });
  }
}
