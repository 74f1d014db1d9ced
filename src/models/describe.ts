import { formatBytes } from "../backends/cpu/allocations.ts";
import { type DType, numel } from "../graph/types.ts";
import type { CausalLM } from "./model.ts";

export interface ModelSummary {
  readonly family: string;
  readonly layers: number;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  /** Numbers in the model; a head that is the embedding counts once. */
  readonly parameters: number;
  /** Bytes they take, scales of quantised weights included. */
  readonly bytes: number;
  /** The same by storage type, most bytes first. */
  readonly byDType: readonly {
    readonly dtype: DType;
    readonly tensors: number;
    readonly parameters: number;
    readonly bytes: number;
  }[];
  /** All of it for people, in a few lines. */
  readonly text: string;
}

/** Size of a model, and what it is made of. */
export function describeModel(model: CausalLM): ModelSummary {
  const { family, layers, hiddenSize, vocabSize } = model.config;
  const rows = new Map<DType, { dtype: DType; tensors: number; parameters: number; bytes: number }>();
  for (const { dtype, shape, bytes } of model.parameters.values()) {
    const row = rows.get(dtype) ?? { dtype, tensors: 0, parameters: 0, bytes: 0 };
    rows.set(dtype, row);
    row.tensors++;
    row.parameters += numel(shape);
    row.bytes += bytes;
  }
  const byDType = [...rows.values()].sort((a, b) => b.bytes - a.bytes);
  const parameters = byDType.reduce((sum, row) => sum + row.parameters, 0);
  const bytes = byDType.reduce((sum, row) => sum + row.bytes, 0);
  const lines = [
    `${family}: ${layers} layers of ${hiddenSize}, vocabulary ${vocabSize}`,
    `${formatCount(parameters)} parameters in ${formatBytes(bytes)}`,
    ...byDType.map((row) => `  ${row.dtype}: ${formatCount(row.parameters)} in ${formatBytes(row.bytes)}`),
  ];
  return { family, layers, hiddenSize, vocabSize, parameters, bytes, byDType, text: lines.join("\n") };
}

/** A count as people say it: 8.03B, 494M, 135K. */
export function formatCount(count: number): string {
  for (const [unit, size] of [
    ["B", 1e9],
    ["M", 1e6],
    ["K", 1e3],
  ] as const) {
    if (count >= size) return `${Number((count / size).toPrecision(3))}${unit}`;
  }
  return String(count);
}
