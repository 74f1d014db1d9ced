import type { Batch } from "../data/collate.ts";
import type { Graph, Value } from "../graph/graph.ts";
import type { ModelAdapter } from "../models/adapter.ts";
import type { DecoderTrace, TokenInputs } from "../models/decoder.ts";
import type { CausalLM } from "../models/model.ts";

/** A traced loss [1], and what is reported beside it. */
export interface TracedLoss {
  readonly loss: Value;
  /** Sums over the trained tokens, [4] in the order of LOSS_METRICS: entropy and accuracy are logged from them. */
  readonly metrics?: Value | null;
  /** Further numbers [1] to log, as means over microbatches, by their keys. */
  readonly logs?: Readonly<Record<string, Value>>;
  /** Arrays for `hostLogs`, by name. */
  readonly arrays?: Readonly<Record<string, Value>>;
  /** Numbers to log that are easier made from arrays than traced: extremes, counts, medians. */
  readonly hostLogs?: HostLogs;
}

/** Numbers to log of a batch, from the arrays its loss gave. */
export type HostLogs = (
  arrays: Readonly<Record<string, Float32Array>>,
  batch: Batch,
) => Readonly<Record<string, number>>;

/** What a traced loss may use. */
export interface LossContext {
  readonly graph: Graph;
  readonly trace: DecoderTrace;
  readonly tokens: TokenInputs;
  /** i32[T], shifted: each token's label is the next token, −100 where nothing is trained. */
  readonly labels: Value;
  /** f32[1]: 1 / what the window's batches weigh (trained tokens, or pairs); of the batch alone, in evaluation. */
  readonly lossScale: Value;
  readonly labelSmoothing: number;
  /** Hidden states after the last norm, [T, d]; traced once, however often it is asked for. */
  hidden(): Value;
  /**
   * An array of the batch's `inputs`, as a value of its type and shape. Throws GraphError for a name the batch has not.
   */
  input(name: string): Value;
  /** Whether the batch has it. */
  hasInput(name: string): boolean;
  /**
   * The model traced with another adapter, or with none (null): a reference, a value model. Or another model of the same
   * backend and vocabulary: a teacher. Without dropout.
   */
  traceWith(adapter: ModelAdapter | null, model?: CausalLM): DecoderTrace;
  /** Logits [T, V], in memory all at once: the default loss never makes them whole. */
  logits(): Value;
}

/**
 * Replaces the loss of a batch. It is called once a program, not once a step: what it does with the values it is given is
 * recorded, differentiated and compiled. Use ops on values (`ops`), not numbers read from them.
 */
export type ComputeLoss = (context: LossContext) => TracedLoss;

/** Next-token cross-entropy, the default. */
export const crossEntropyLoss: ComputeLoss = ({ trace, hidden, labels, lossScale, labelSmoothing }) =>
  trace.loss(hidden(), { labels, lossScale, labelSmoothing });

/** Arrays computed from a batch, by name: what `StepRunner.forward` runs without gradients. */
export type Forward = (context: LossContext) => Readonly<Record<string, Value>>;
