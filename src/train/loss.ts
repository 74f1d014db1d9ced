import type { Graph, Value } from "../graph/graph.ts";
import type { DecoderTrace, TokenInputs } from "../models/decoder.ts";

/** A traced loss [1], and what is reported beside it. */
export interface TracedLoss {
  readonly loss: Value;
  /** Sums over the trained tokens, [4] in the order of LOSS_METRICS: entropy and accuracy are logged from them. */
  readonly metrics?: Value | null;
  /** Further numbers [1] to log, as means over microbatches, by their keys. */
  readonly logs?: Readonly<Record<string, Value>>;
}

/** What a traced loss may use. */
export interface LossContext {
  readonly graph: Graph;
  readonly trace: DecoderTrace;
  readonly tokens: TokenInputs;
  /** i32[T], shifted: each token's label is the next token, −100 where nothing is trained. */
  readonly labels: Value;
  /** f32[1]: 1 / trained tokens of the accumulation window (of the batch, in evaluation). */
  readonly lossScale: Value;
  readonly labelSmoothing: number;
  /** Hidden states after the last norm, [T, d]; traced once, however often it is asked for. */
  hidden(): Value;
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
