import { differentiate } from "../graph/autodiff.ts";
import { Graph, type Value } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import type { Program } from "../graph/program.ts";
import { DecoderTrace, type DecoderTraceOptions, type TokenInputs } from "../models/decoder.ts";
import { add } from "../ops/add.ts";
import { cast } from "../ops/cast.ts";
import { constantOp } from "../ops/elementwise.ts";
import { crossEntropyLoss, type LossContext } from "./loss.ts";
import type { StepOptions } from "./step.ts";

/** Gradients; the loss alone; the loss and the hidden states. */
export type BatchMode = "train" | "eval" | "predict";

/** Before the names of outputs that hold a loss's further numbers. */
export const LOG_PREFIX = "log.";

/** The program of one microbatch of `tokens` tokens. */
export function planBatch(options: StepOptions, mode: BatchMode, tokens: number): Program {
  const { model, optimizer, computeLoss = crossEntropyLoss, policy, offload } = options;
  const graph = new Graph();
  const training = mode === "train";
  const context = lossContext(graph, options, training, tokens);
  const { loss, metrics, logs = {} } = computeLoss(context);
  graph.output("loss", loss);
  if (metrics) graph.output("metrics", metrics);
  for (const [key, value] of Object.entries(logs)) graph.output(LOG_PREFIX + key, value);
  if (mode === "predict") graph.output("hidden", cast(context.hidden(), "f32"));
  if (training) {
    const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
    const targets = optimizer.trainables.map((trainable) => ({
      value: graph.use(trainable.tensor),
      into: graph.use(optimizer.gradient(trainable), { mutable: true }),
    }));
    differentiate(graph, loss, targets, one);
  }
  const { workspaceOf, rates } = model.backend;
  return plan(graph, {
    workspaceOf,
    rates,
    policy: training ? policy : { kind: "keep" },
    offload: offload ?? false,
    name: `${mode} step, ${tokens} tokens`,
  });
}

/** The program from hidden states [rows, d] to logits [rows, V]. */
export function planLogits({ model, maxPositions }: StepOptions, rows: number): Program {
  const graph = new Graph();
  const hidden = graph.input("hidden", "f32", [rows, model.config.hiddenSize]);
  graph.output("logits", cast(new DecoderTrace(graph, model, { maxPositions }).logits(hidden), "f32"));
  const { workspaceOf, rates } = model.backend;
  return plan(graph, { workspaceOf, rates, name: `logits of ${rows} tokens` });
}

function lossContext(graph: Graph, options: StepOptions, training: boolean, tokens: number): LossContext {
  const { model, maxPositions, labelSmoothing = 0, neftuneNoiseAlpha } = options;
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
  return { graph, trace, tokens: inputs, labels, lossScale, labelSmoothing, hidden, logits };
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
