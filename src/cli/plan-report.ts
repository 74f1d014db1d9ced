import type { ModePlan, TrainingPlan } from "../api/plan-training.ts";
import { formatCount } from "../models/describe.ts";
import { formatBytes, table } from "./terminal.ts";

/** Bytes that stay from step to step; `cache`: keys and values of sequences that are generated. */
type FixedBytes = TrainingPlan["fixed"] & { readonly cache?: number };

const PARTS: readonly (readonly [keyof FixedBytes, string])[] = [
  ["weights", "weights"],
  ["adapter", "adapter"],
  ["gradients", "gradients"],
  ["optimizer", "optimizer states"],
  ["constants", "rotary tables"],
  ["cache", "keys and values"],
];

const MODES: Readonly<Record<ModePlan["mode"], string>> = { keep: "false", recompute: "true", unsloth: "unsloth" };

/** Where the memory goes that stays from step to step; `host`: bytes of input embeddings that a GPU leaves to host memory. */
export function fixedLines(fixed: FixedBytes, host: number): string[] {
  const together = Object.values(fixed).reduce((sum, bytes) => sum + bytes, 0);
  return table([
    ["memory", ""],
    ...PARTS.flatMap(([part, label]) => (fixed[part] ? [[label, formatBytes(fixed[part])]] : [])),
    ["together", formatBytes(together)],
    ...(host > 0 ? [["host memory: input embeddings", formatBytes(host)]] : []),
  ]);
}

/** A plan for people: where the memory goes, what each way of checkpointing costs, whether it fits. */
export function planLines(plan: TrainingPlan): string[] {
  const { model, batchSize, maxSeqLength, tokens } = plan;
  const share = ((100 * plan.trainable) / (model.parameters + plan.fixed.adapter / 4)).toPrecision(2);
  return [
    `${model.family}, ${model.layers} layers, ${formatCount(model.parameters)} parameters; ` +
      `${formatCount(plan.trainable)} trained (${share}%)`,
    `microbatch: ${batchSize} × ${maxSeqLength} tokens, planned as ${tokens}`,
    "",
    ...fixedLines(plan.fixed, plan.host),
    "",
    ...modeLines(plan),
    "",
    ...verdict(plan),
    ...plan.warnings.map((warning) => `note: ${warning}`),
  ];
}

/** A table of what each way of checkpointing needs. */
export function modeLines({ modes, memory }: Pick<TrainingPlan, "modes" | "memory">): string[] {
  const rows = modes.map(({ mode, program, activations, total, fits, recomputing }) => {
    const counts = program?.checkpointing();
    return [
      MODES[mode],
      formatBytes(activations),
      formatBytes(total),
      fits ? "yes" : "no",
      program ? `+${(100 * recomputing).toFixed(0)}%` : "–",
      counts
        ? `${counts.kept.count} kept, ${counts.recomputed.count} recomputed${offloaded(counts.offloaded)}`
        : "does not fit even with all recomputed",
    ];
  });
  const fits = `fits in ${formatBytes(memory)}`;
  return table([["use-gradient-checkpointing", "activations", "in all", fits, "time", ""], ...rows]);
}

const offloaded = ({ count, bytes }: { readonly count: number; readonly bytes: number }): string =>
  count > 0 ? `, ${count} in host memory (${formatBytes(bytes)})` : "";

function verdict(plan: TrainingPlan): string[] {
  const { fits, memory, longest, batchSize, maxSeqLength } = plan;
  const limit = longest === plan.model.maxPositions ? ", the model's limit" : "";
  const room = `longest sequence that fits with a batch of ${batchSize}: ${longest} tokens${limit}`;
  if (fits) return [`✅ fits in ${formatBytes(memory)}; ${room}`];
  const needed = Math.min(...plan.modes.map(({ total }) => total));
  const lines = [`❌ does not fit in ${formatBytes(memory)}: needs at least ${formatBytes(needed)}`];
  if (longest > 0)
    return [...lines, `   what would fit: --max-seq-length ${Math.min(longest, maxSeqLength)} (${room})`];
  const advice = [
    ...(batchSize > 1 ? ["--batch 1"] : []),
    "--load-in-4bit",
    "a smaller model",
    "a machine with more memory",
  ];
  return [...lines, `   no sequence fits with a batch of ${batchSize}; what may help: ${advice.join(", ")}`];
}

/** A plan for programs. */
export function planJson(plan: TrainingPlan): Record<string, unknown> {
  return { ...plan, modes: modesJson(plan.modes) };
}

/** The ways of checkpointing for programs. */
export function modesJson(modes: readonly ModePlan[]): Record<string, unknown>[] {
  return modes.map(({ program, mode, ...rest }) => ({
    useGradientCheckpointing: MODES[mode],
    ...rest,
    checkpointing: program?.checkpointing() ?? null,
  }));
}
