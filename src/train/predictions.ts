import type { Batch } from "../data/collate.ts";
import { availableMemory } from "../util/available-memory.ts";
import { OptionError } from "../util/options.ts";
import type { StepRunner } from "./step.ts";

export type Numbers = Float32Array | Float64Array | Int32Array | Uint32Array;

/** Numbers in rows, one row a token, stored row by row. */
export interface TokenRows<T extends Numbers = Numbers> {
  readonly data: T;
  readonly rows: number;
  readonly cols: number;
}

/** Logits [tokens, vocabulary]. */
export type Logits = TokenRows<Float32Array>;

/**
 * What is kept of logits, for a piece of a sequence at a time: as many numbers for each token (its row of logits), in
 * token order, e.g. one for `argmax`. `labels[i]` is what row i should predict, −100 where nothing is asked.
 */
export type PreprocessLogits = (logits: Logits, labels: Int32Array) => Numbers;

/** What computeMetrics gets: lists with one entry a sequence, in the data's order. */
export interface EvalPrediction {
  /** What preprocessLogitsForMetrics kept; the logits without it. Row t belongs to token t. */
  readonly predictions: readonly TokenRows[];
  /** Already shifted, unlike Hugging Face's label_ids: labels[t] is what row t should predict, or −100. */
  readonly labels: readonly Int32Array[];
  /** Token ids, with includeForMetrics "inputs". */
  readonly inputs?: readonly Int32Array[];
  /** Mean loss of the batch that each sequence was in, with includeForMetrics "loss". */
  readonly losses?: readonly number[];
}

/** Numbers to log, as "eval_<name>". With batchEvalMetrics: called a batch, and what the last call gives counts. */
export type ComputeMetrics = (
  prediction: EvalPrediction,
  options: { computeResult: boolean },
) => Readonly<Record<string, number>> | Promise<Readonly<Record<string, number>>>;

/** The likeliest token of each row. */
export const argmax: PreprocessLogits = ({ data, rows, cols }) => {
  const best = new Int32Array(rows);
  for (let row = 0; row < rows; row++) {
    const start = row * cols;
    let index = start;
    for (let i = start + 1; i < start + cols; i++) if (data[i]! > data[index]!) index = i;
    best[row] = index - start;
  }
  return best;
};

/** Bytes of logits in memory at a time. */
const CHUNK_BYTES = 64 * 2 ** 20;

/** A sequence of an evaluation batch with its predictions. */
export interface PredictedSequence {
  readonly predictions: TokenRows;
  readonly labels: Int32Array;
  readonly inputs: Int32Array;
}

/** Predictions of each sequence of a batch, from its hidden states [T, d]: logits exist for a chunk of tokens at a time. */
export async function predictSequences(
  runner: StepRunner,
  batch: Batch,
  hidden: Float32Array,
  preprocess: PreprocessLogits | null,
  chunkBytes: number = CHUNK_BYTES,
): Promise<PredictedSequence[]> {
  const tokens = batch.inputIds.length;
  const width = hidden.length / tokens;
  const chunk = Math.max(1, Math.min(tokens, Math.floor(chunkBytes / (4 * runner.vocabSize))));
  /** The parts of each sequence that starts at a token. */
  const parts = new Map<number, Numbers[]>();
  for (let at = 0; at < batch.numTokens; at += chunk) {
    const data = await runner.logits(padded(hidden.subarray(at * width), chunk * width));
    const cols = data.length / chunk;
    for (let token = at; token < Math.min(at + chunk, batch.numTokens); ) {
      const start = batch.seqStart[token]!;
      const end = Math.min(batch.seqEnd[token]!, at + chunk);
      const rows = { data: data.subarray((token - at) * cols, (end - at) * cols), rows: end - token, cols };
      const kept = keep(rows, batch.labels.slice(token, end), preprocess);
      parts.set(start, [...(parts.get(start) ?? []), kept]);
      token = end;
    }
  }
  return [...parts].map(([start, numbers]) => {
    const end = batch.seqEnd[start]!;
    const data = concatenate(numbers);
    return {
      predictions: { data, rows: end - start, cols: data.length / (end - start) },
      labels: batch.labels.slice(start, end),
      inputs: batch.inputIds.slice(start, end),
    };
  });
}

function keep(logits: Logits, labels: Int32Array, preprocess: PreprocessLogits | null): Numbers {
  // The chunk's memory is used again, so whole logits are copied.
  if (!preprocess) return logits.data.slice();
  const kept = preprocess(logits, labels);
  if (!ArrayBuffer.isView(kept) || kept.length % logits.rows !== 0) {
    const found = ArrayBuffer.isView(kept) ? `${kept.length} numbers` : typeof kept;
    throw new OptionError(
      `preprocessLogitsForMetrics must give a typed array with as many numbers for each of the ${logits.rows} rows; found ${found}`,
    );
  }
  return kept;
}

/** `values` with zeros up to `length`. */
function padded(values: Float32Array, length: number): Float32Array {
  if (values.length >= length) return values.subarray(0, length);
  const longer = new Float32Array(length);
  longer.set(values);
  return longer;
}

function concatenate(parts: readonly Numbers[]): Numbers {
  if (parts.length === 1) return parts[0]!;
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const whole = new (parts[0]!.constructor as new (length: number) => Numbers)(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Keeps predictions of a whole evaluation. Throws OptionError before they would use up the memory. */
export class PredictionList {
  private readonly sequences: PredictedSequence[] = [];
  private readonly losses: number[] = [];
  private readonly room = availableMemory();
  private bytes = 0;

  add(sequences: readonly PredictedSequence[], loss: number): void {
    for (const sequence of sequences) {
      this.bytes += sequence.predictions.data.byteLength;
      this.sequences.push(sequence);
      this.losses.push(loss);
    }
    if (this.bytes > this.room / 2) {
      const mebibytes = Math.round(this.bytes / 2 ** 20);
      throw new OptionError(
        `predictions fill ${mebibytes} MiB, half of what was free: keep less of the logits with preprocessLogitsForMetrics ` +
          "(argmax keeps the likeliest token), or take them a batch at a time with batchEvalMetrics",
      );
    }
  }

  /** @param include what else: "inputs", "loss" */
  prediction(include: readonly string[]): EvalPrediction {
    return {
      predictions: this.sequences.map(({ predictions }) => predictions),
      labels: this.sequences.map(({ labels }) => labels),
      ...(include.includes("inputs") && { inputs: this.sequences.map(({ inputs }) => inputs) }),
      ...(include.includes("loss") && { losses: this.losses }),
    };
  }
}
