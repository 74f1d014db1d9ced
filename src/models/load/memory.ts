import { formatBytes } from "../../backends/cpu/allocations.ts";
import { MemoryPlanError } from "../../graph/types.ts";
import type { MatchedWeight } from "./match.ts";
import { planStorage, type StorageOptions, type StoredParameter } from "./storage.ts";

/** Scratch while loading: a piece of a weight in two types, and the scales of one. */
const SCRATCH_BYTES = 32 * 2 ** 20;

/**
 * Throws MemoryPlanError when the parameters do not fit into `available` bytes, saying what is needed, what there is
 * and which of the other ways to load the model would fit.
 */
export function checkMemory(
  path: string,
  parameters: readonly StoredParameter[],
  options: StorageOptions,
  available: number,
): void {
  const needed = bytesOf(parameters) + SCRATCH_BYTES;
  if (needed <= available) return;
  const others = alternatives(parameters, options).filter((other) => other.bytes < needed);
  const fitting = others.filter((other) => other.bytes <= available);
  const smallest = others.at(-1);
  const advice =
    fitting.length > 0
      ? `what would fit: ${fitting.map((other) => `${other.label} (${formatBytes(other.bytes)})`).join(", ")}`
      : smallest
        ? `even ${smallest.label} needs ${formatBytes(smallest.bytes)}: use a smaller model or a machine with more memory`
        : "use a smaller model or a machine with more memory";
  throw new MemoryPlanError(
    needed,
    available,
    `${path}: its weights need ${formatBytes(needed)} of memory; ${formatBytes(available)} is available; ${advice}`,
  );
}

function bytesOf(parameters: readonly StoredParameter[]): number {
  return parameters.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Other ways to keep the same weights, with their bytes, largest first. */
function alternatives(weights: readonly MatchedWeight[], options: StorageOptions): { label: string; bytes: number }[] {
  const { quantization } = options;
  const ways: [string, StorageOptions][] = [
    ["without fullFinetuning", { quantization }],
    ["dtype: bfloat16", { dtype: "bfloat16", quantization }],
    ["loadIn4bit", { loadIn4bit: true, quantization }],
    ["loadIn4bit with dtype: bfloat16", { loadIn4bit: true, dtype: "bfloat16", quantization }],
  ];
  const found: { label: string; bytes: number }[] = [];
  for (const [label, way] of ways.slice(options.fullFinetuning ? 0 : 1)) {
    const bytes = bytesOf(planStorage(weights, way)) + SCRATCH_BYTES;
    // A longer way to say the same is no help.
    if (!found.some((other) => other.bytes <= bytes)) found.push({ label, bytes });
  }
  return found;
}
