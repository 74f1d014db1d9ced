import { type Batch, type BatchInput, collate, IGNORE_INDEX, type TokenizedRow, vectorInput } from "./collate.ts";
import type { LabelledAnswer, PreferencePair } from "./preference.ts";
import { countTargets } from "./recipe-report.ts";

/** A pair with what a reference model thinks of it: summed log-probabilities of chosen and rejected, where known. */
export interface ScoredPair extends PreferencePair {
  readonly reference?: readonly [number, number];
}

export interface PairBatchOptions {
  /** Pairs of the window for each token of its plain loss: what such a loss is multiplied with, beside the window's scale. */
  readonly tokenScale: number;
  /** Weight of the tokens by which an answer is longer than the other one (LD-DPO); null: they count as the others do. */
  readonly ldAlpha?: number | null;
  /** The chosen sequences have labels in their prompts too, for a plain loss over all of it (ORPO). */
  readonly wholeChosen?: boolean;
  /** For losses that sort the pairs of a batch. */
  readonly sorts?: boolean;
}

/**
 * Pairs as one packed stream of 2n sequences: the chosen ones, then the rejected ones. It weighs n. Inputs, beside the
 * stream's: `segments` i32[T], the sequence whose answer a token predicts, −1 for others; `chosen` and `rejected` i32[n],
 * numbers of sequences; `lengths` and `targets` f32[2n], tokens of each answer, and those of them that are predicted;
 * `tokenScale` f32[1]; and by the options `tokenWeights` f32[T], `reference` f32[2n], `wholeSegments` i32[T], `wholeCount`
 * f32[1], `order` f32[n], `earlier` f32[n, n].
 */
export function collatePairs(pairs: readonly ScoredPair[], options: PairBatchOptions): Batch {
  const { tokenScale, ldAlpha = null, wholeChosen = false, sorts = false } = options;
  const n = pairs.length;
  const rows = [...pairs.map(({ chosen }) => chosen), ...pairs.map(({ rejected }) => rejected)];
  const laid = rows.map((row, i) => [wholeChosen && i < n ? { ...row, labels: row.inputIds } : row]);
  const batch = collate(laid);
  const { segments, targets } = answerTokens(rows, batch.inputIds.length);
  const shared = pairs.map((_, i) => Math.min(targets[i]!, targets[n + i]!));
  return {
    ...batch,
    weight: n,
    inputs: {
      segments: vectorInput(segments),
      chosen: vectorInput(Int32Array.from({ length: n }, (_, i) => i)),
      rejected: vectorInput(Int32Array.from({ length: n }, (_, i) => n + i)),
      lengths: vectorInput(Float32Array.from(rows, answerLength)),
      targets: vectorInput(targets),
      tokenScale: vectorInput(Float32Array.of(tokenScale)),
      ...(ldAlpha !== null && { tokenWeights: vectorInput(tailWeights(segments, [...shared, ...shared], ldAlpha)) }),
      ...(wholeChosen && wholeInputs(batch, rows, n)),
      ...(pairs[0]?.reference && { reference: vectorInput(references(pairs)) }),
      ...(sorts && sortInputs(n)),
    },
  };
}

/** How labelled answers become a batch. */
export interface UnpairedBatchOptions {
  /** Each prompt with the answer of the one before it, too: KTO's estimate of how far the model has moved. */
  readonly mismatched: boolean;
  /** Tokens of a mismatched sequence; longer ones lose their end. */
  readonly maxLength: number | null;
  readonly desirableWeight: number;
  readonly undesirableWeight: number;
}

/** A labelled answer with its summed log-probability under a reference, and that of its mismatched answer. */
export interface ScoredAnswer extends LabelledAnswer {
  readonly reference?: readonly [number, number];
}

/**
 * Labelled answers as one packed stream of n sequences; it weighs n. Inputs: `segments` and `targets` as of pairs; `signs`
 * f32[n], 1 where the answer is wanted and −1 where not; `weights` f32[n]; `reference` f32[n]; and of the stream of
 * mismatched answers `kl.ids`, `kl.positions`, `kl.seqStart`, `kl.seqEnd`, `kl.labels` i32[T'], `kl.segments` i32[T'] and
 * `kl.reference` f32[n].
 */
export function collateUnpaired(answers: readonly ScoredAnswer[], options: UnpairedBatchOptions): Batch {
  const rows = answers.map(({ row }) => row);
  const batch = collate(rows.map((row) => [row]));
  const { segments, targets } = answerTokens(rows, batch.inputIds.length);
  const weightOf = ({ label }: ScoredAnswer): number => (label ? options.desirableWeight : options.undesirableWeight);
  const scored = answers[0]?.reference !== undefined;
  const reference = (which: 0 | 1): BatchInput =>
    vectorInput(Float32Array.from(answers, (answer) => answer.reference![which]));
  return {
    ...batch,
    weight: answers.length,
    inputs: {
      segments: vectorInput(segments),
      targets: vectorInput(targets),
      signs: vectorInput(Float32Array.from(answers, ({ label }) => (label ? 1 : -1))),
      weights: vectorInput(Float32Array.from(answers, weightOf)),
      ...(scored && { reference: reference(0) }),
      ...(options.mismatched && mismatchedStream(answers, options.maxLength)),
      ...(options.mismatched && scored && { "kl.reference": reference(1) }),
    },
  };
}

/** Each prompt with the answer before it, the first with the last one's: TRL's estimate of how far the model has moved. */
export function mismatched(answers: readonly LabelledAnswer[], maxLength: number | null): TokenizedRow[] {
  return answers.map(({ row }, i) => {
    const prompt = row.inputIds.subarray(0, row.inputIds.length - answerLength(row));
    const ids = [...prompt, ...answers.at(i - 1)!.answer];
    const inputIds = Int32Array.from(maxLength === null ? ids : ids.slice(0, maxLength));
    return { inputIds, labels: Int32Array.from(inputIds).fill(IGNORE_INDEX, 0, prompt.length) };
  });
}

function mismatchedStream(answers: readonly LabelledAnswer[], maxLength: number | null): Record<string, BatchInput> {
  const others = mismatched(answers, maxLength);
  const { inputIds, positions, seqStart, seqEnd, labels } = collate(others.map((row) => [row]));
  const { segments } = answerTokens(others, inputIds.length);
  const all = { ids: inputIds, positions, seqStart, seqEnd, labels, segments };
  return Object.fromEntries(Object.entries(all).map(([name, data]) => [`kl.${name}`, vectorInput(data)]));
}

/** Tokens of an answer, its first one counted though nothing may predict it. */
export function answerLength({ labels }: TokenizedRow): number {
  return labels.reduce((count, label) => count + Number(label !== IGNORE_INDEX), 0);
}

/** For each token the sequence whose answer it predicts, or −1; and how many there are a sequence. */
function answerTokens(rows: readonly TokenizedRow[], length: number): { segments: Int32Array; targets: Float32Array } {
  const segments = new Int32Array(length).fill(-1);
  let at = 0;
  for (const [index, { labels }] of rows.entries()) {
    for (let t = 1; t < labels.length; t++) if (labels[t] !== IGNORE_INDEX) segments[at + t - 1] = index;
    at += labels.length;
  }
  return { segments, targets: Float32Array.from(rows, countTargets) };
}

/** Segments of which the 0th is all tokens of the n first sequences that predict something, and how many those are. */
function wholeInputs(batch: Batch, rows: readonly TokenizedRow[], n: number): Record<string, BatchInput> {
  const end = rows.slice(0, n).reduce((sum, { inputIds }) => sum + inputIds.length, 0);
  const wholeSegments = batch.labels.map((label, t) => (t < end && label !== IGNORE_INDEX ? 0 : -1));
  const wholeCount = Float32Array.of(wholeSegments.filter((segment) => segment === 0).length);
  return { wholeSegments: vectorInput(wholeSegments), wholeCount: vectorInput(wholeCount) };
}

/** 1 for as many tokens of an answer as `shared` says, `alpha` for those after. */
function tailWeights(segments: Int32Array, shared: readonly number[], alpha: number): Float32Array {
  const seen = new Map<number, number>();
  return Float32Array.from(segments, (segment) => {
    if (segment < 0) return 0;
    const place = (seen.get(segment) ?? 0) + 1;
    seen.set(segment, place);
    return place <= shared[segment]! ? 1 : alpha;
  });
}

const references = (pairs: readonly ScoredPair[]): Float32Array =>
  Float32Array.from([...pairs.map(({ reference }) => reference![0]), ...pairs.map(({ reference }) => reference![1])]);

/** 0 … n−1 f32[n], and f32[n, n] with 1 in row i, column j where j < i. */
function sortInputs(n: number): Record<string, BatchInput> {
  const earlier = Float32Array.from({ length: n * n }, (_, at) => Number(at % n < Math.floor(at / n)));
  return {
    order: vectorInput(Float32Array.from({ length: n }, (_, i) => i)),
    earlier: { data: earlier, shape: [n, n] },
  };
}
