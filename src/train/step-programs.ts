import type { Batch } from "../data/collate.ts";
import { differentiate } from "../graph/autodiff.ts";
import { Graph, type Value } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import type { Program } from "../graph/program.ts";
import { GraphError } from "../graph/types.ts";
import { DecoderTrace, type DecoderTraceOptions, type TokenInputs } from "../models/decoder.ts";
import { withoutAdapter } from "../models/muted-adapter.ts";
import { add } from "../ops/add.ts";
import { cast } from "../ops/cast.ts";
import { constantOp } from "../ops/elementwise.ts";
import { groupTrainingProducts } from "../ops/product-groups.ts";
import { crossEntropyLoss, type Forward, type HostLogs, type LossContext } from "./loss.ts";
import type { StepOptions } from "./step.ts";

/** Gradients; the loss alone; the loss and the hidden states. */
export type BatchMode = "train" | "eval" | "predict";

/** Before the names of outputs that hold a loss's further numbers. */
export const LOG_PREFIX = "log.";

/** Before the names of inputs that come from a batch's `inputs`, so that they never meet ours. */
export const INPUT_PREFIX = "batch.";

/** Before the names of outputs that `hostLogs` gets. */
export const ARRAY_PREFIX = "array.";

/** What a program depends on of its batch: lengths, not contents. */
export interface BatchShape {
  readonly tokens: number;
  readonly inputs: ReadonlyMap<string, { readonly dtype: "f32" | "i32"; readonly shape: readonly number[] }>;
}

export function batchShape({ inputIds, inputs = {} }: Batch): BatchShape {
  const entries = Object.entries(inputs).map(([name, { data, shape }]) => {
    return [name, { dtype: data instanceof Int32Array ? ("i32" as const) : ("f32" as const), shape }] as const;
  });
  return { tokens: inputIds.length, inputs: new Map(entries) };
}

/** Equal for shapes that a program serves equally. */
export function shapeKey({ tokens, inputs }: BatchShape): string {
  return [tokens, ...[...inputs].map(([name, { dtype, shape }]) => `${name}=${dtype}[${shape}]`)].join(":");
}

/** The program of one microbatch, and what makes numbers to log of its arrays. */
export function planBatch(
  options: StepOptions,
  mode: BatchMode,
  shape: BatchShape,
): { program: Program; hostLogs: HostLogs | null } {
  const { model, optimizer, computeLoss = crossEntropyLoss, policy, offload, hostBytes } = options;
  const graph = new Graph();
  const training = mode === "train";
  const { tokens } = shape;
  const context = lossContext(graph, options, training, shape);
  const { loss, metrics, logs = {}, arrays = {}, hostLogs = null } = computeLoss(context);
  graph.output("loss", loss);
  if (metrics) graph.output("metrics", metrics);
  for (const [key, value] of Object.entries(logs)) graph.output(LOG_PREFIX + key, value);
  for (const [key, value] of Object.entries(arrays)) graph.output(ARRAY_PREFIX + key, cast(value, "f32"));
  if (mode === "predict") graph.output("hidden", cast(context.hidden(), "f32"));
  if (training) {
    const seed = graph.inPhase("backward", () =>
      optimizer.lossScaler
        ? graph.input("gradScale", "f32", loss.shape)
        : graph.apply(constantOp, [], { value: 1 })[0]!,
    );
    const targets = optimizer.trainables.map((trainable) => ({
      value: graph.use(trainable.tensor),
      into: graph.use(optimizer.gradient(trainable), { mutable: true }),
    }));
    differentiate(graph, loss, targets, seed);
  }
  const { workspaceOf, rates, groupsProducts } = model.backend;
  if (groupsProducts) groupTrainingProducts(graph);
  const program = plan(graph, {
    workspaceOf,
    rates,
    policy: training ? policy : { kind: "keep" },
    offload: offload ?? false,
    ...(hostBytes !== undefined && { hostBytes }),
    name: `${mode} step, ${tokens} tokens`,
  });
  return { program, hostLogs };
}

/** The program from hidden states [rows, d] to logits [rows, V]. */
export function planLogits({ model, maxPositions }: StepOptions, rows: number): Program {
  const graph = new Graph();
  const hidden = graph.input("hidden", "f32", [rows, model.config.hiddenSize]);
  graph.output("logits", cast(new DecoderTrace(graph, model, { maxPositions }).logits(hidden), "f32"));
  const { workspaceOf, rates } = model.backend;
  return plan(graph, { workspaceOf, rates, name: `logits of ${rows} tokens` });
}

/** The program of arrays computed from a microbatch, without gradients. */
export function planForward(options: StepOptions, name: string, forward: Forward, shape: BatchShape): Program {
  const graph = new Graph();
  for (const [key, value] of Object.entries(forward(lossContext(graph, options, false, shape)))) {
    graph.output(key, value.dtype === "bf16" || value.dtype === "f16" ? cast(value, "f32") : value);
  }
  const { workspaceOf, rates, groupsProducts } = options.model.backend;
  if (groupsProducts) groupTrainingProducts(graph); // as in a training step, and so rounded alike
  return plan(graph, { workspaceOf, rates, name: `${name}, ${shape.tokens} tokens` });
}

function lossContext(graph: Graph, options: StepOptions, training: boolean, shape: BatchShape): LossContext {
  const { model, maxPositions, labelSmoothing = 0, neftuneNoiseAlpha } = options;
  const { tokens } = shape;
  const tokenInput = (name: string): Value => graph.input(name, "i32", [tokens]);
  const labels = tokenInput("labels");
  const lossScale = graph.input("lossScale", "f32", [1]);
  const inputs: TokenInputs = {
    ids: tokenInput("ids"),
    positions: tokenInput("positions"),
    seqStart: tokenInput("seqStart"),
    seqEnd: tokenInput("seqEnd"),
  };
  const traceOptions: DecoderTraceOptions = {
    seed: training ? graph.input("seed", "u32", [2]) : null,
    maxPositions,
    ...(training && neftuneNoiseAlpha && { mapEmbeddings: (h) => addNoise(graph, h) }),
  };
  const trace = new DecoderTrace(graph, model, traceOptions);
  const hidden = once(() => trace.hidden(inputs));
  const logits = once(() => trace.logits(hidden()));
  return {
    graph,
    trace,
    tokens: inputs,
    labels,
    lossScale,
    labelSmoothing,
    hidden,
    logits,
    traceWith: (adapter, other = model) =>
      new DecoderTrace(graph, other, { maxPositions, adapter: adapter ?? withoutAdapter(other) }),
    hasInput: (name) => shape.inputs.has(name),
    input(name) {
      const found = shape.inputs.get(name);
      if (found) return graph.input(INPUT_PREFIX + name, found.dtype, found.shape);
      const names = [...shape.inputs.keys()];
      throw new GraphError(`the batch has no input "${name}"; it has ${names.length > 0 ? names.join(", ") : "none"}`);
    },
  };
}

function addNoise(graph: Graph, embeddings: Value): Value {
  return add(embeddings, cast(graph.input("noise", "f32", embeddings.shape), embeddings.dtype));
}

function once<T>(make: () => T): () => T {
  let made: { value: T } | null = null;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
