import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { bucketLength } from "../data/collate.ts";
import type { CheckpointPolicy } from "../graph/plan.ts";
import type { Program } from "../graph/program.ts";
import { seconds } from "../graph/remat.ts";
import { MemoryPlanError, numel } from "../graph/types.ts";
import type { StorageOptions } from "../models/load/storage.ts";
import { type WeightChoice, weightOptions } from "../models/load/weight-options.ts";
import type { CausalLM } from "../models/model.ts";
import { Optimizer } from "../optim/optimizer.ts";
import { getPeftModel, type PeftModel } from "../peft/index.ts";
import { StepRunner } from "../train/step.ts";
import { asTrainable } from "../train/trainable.ts";
import { availableMemory } from "../util/available-memory.ts";
import { type DeviceName, storedAs } from "./device.ts";
import { type LocateOptions, locateModel } from "./locate.ts";
import { openSketchDevice } from "./sketch-device.ts";
import { sketchModel } from "./sketch-model.ts";

export interface PlanTrainingOptions extends Pick<StorageOptions, "dtype" | "offloadEmbedding">, WeightChoice {
  /** A model's folder, .gguf file, config.json, or id on the hub (of which only config.json is fetched). */
  readonly modelName: string;
  /** Tokens of a sequence. Default 2048, or the model's positions if these are fewer. */
  readonly maxSeqLength?: number | undefined;
  /** Sequences of a microbatch. Default 1. */
  readonly batchSize?: number | undefined;
  /** As getPeftModel takes them. */
  readonly lora?: Readonly<Record<string, unknown>> | undefined;
  /** Let activations move to host memory, as SFTTrainer takes it. Default false. */
  readonly activationOffloading?: boolean | undefined;
  /** Bytes of host memory for that; four fifths of what is free here when null or left out. */
  readonly activationHostMemory?: number | null | undefined;
  /** AdamW's states in 8 bits. Default false. */
  readonly eightBit?: boolean | undefined;
  /** As fromPretrained takes it; for "cuda" no GPU needs to be there when `memory` says how much it has. */
  readonly device?: DeviceName | undefined;
  /** As fromPretrained takes it: products in 8 bits have workspaces of their own. Default false. */
  readonly fp8?: boolean | undefined;
  /** Bytes there are; what this process can have, or the GPU has, when left out. */
  readonly memory?: number | undefined;
  /** CPU threads: kernels' workspaces depend on them. */
  readonly threads?: number | undefined;
  readonly hub?: LocateOptions | undefined;
}

/** How activations are treated: "keep" all, "recompute" all, "unsloth": give up only what has to be, or costs next to nothing. */
export type CheckpointMode = "keep" | "recompute" | "unsloth";

/** One way to treat activations. */
export interface ModePlan {
  readonly mode: CheckpointMode;
  /** The program of a step; null: not even with everything recomputed does it fit. */
  readonly program: Program | null;
  /** Bytes of activations, gradients of them and workspaces: the arena's size, known before the first step. */
  readonly activations: number;
  /** Everything together. */
  readonly total: number;
  readonly fits: boolean;
  /** Estimated time spent recomputing, as a share of the step without it. */
  readonly recomputing: number;
}

export interface TrainingPlan {
  readonly model: {
    readonly family: string;
    readonly layers: number;
    readonly parameters: number;
    readonly maxPositions: number;
  };
  readonly trainable: number;
  readonly batchSize: number;
  readonly maxSeqLength: number;
  /** Tokens of the planned microbatch: the length a program is made for. */
  readonly tokens: number;
  /** Bytes that do not depend on the activations. */
  readonly fixed: {
    readonly weights: number;
    readonly adapter: number;
    readonly gradients: number;
    readonly optimizer: number;
    /** Rotary tables and maps. */
    readonly constants: number;
  };
  /** Bytes in host memory beside those of a GPU: the input embeddings with offloadEmbedding. */
  readonly host: number;
  readonly memory: number;
  readonly modes: readonly ModePlan[];
  readonly fits: boolean;
  /** Longest sequence that fits with this batch size, recomputing what has to be; 0: none. */
  readonly longest: number;
  readonly warnings: readonly string[];
}

/**
 * Will a training fit, and in how much memory? Found out by planning its step with tensors that hold nothing: no weight is
 * read or allocated. What Node.js and the tokenised rows take comes on top. Throws as fromPretrained and getPeftModel do.
 */
export async function planTraining(options: PlanTrainingOptions): Promise<TrainingPlan> {
  const path = await configPath(options);
  const weights = weightOptions("planTraining", options);
  const { backend, memory, warnings } = await openSketchDevice(options, options.memory);
  try {
    const dtype = storedAs(backend, options.dtype ?? null, weights);
    const lm = sketchModel(path, backend, { dtype, ...weights, offloadEmbedding: options.offloadEmbedding ?? false });
    const model = weights.fullFinetuning ? lm : await getPeftModel(lm, options.lora);
    const plan = planModel(model, { ...options, memory });
    return { ...plan, warnings: [...plan.warnings, ...warnings] };
  } finally {
    backend.dispose();
  }
}

/** The same for a model that is there, on a sketch backend or a real one. */
export function planModel(model: PeftModel | CausalLM, options: Omit<PlanTrainingOptions, "modelName">): TrainingPlan {
  const { batchSize = 1, memory = availableMemory(), eightBit = false } = options;
  const { activationOffloading: offload = false, activationHostMemory } = options;
  const { lm, trainables } = asTrainable(model);
  const { config } = lm;
  const maxSeqLength = options.maxSeqLength ?? Math.min(2048, config.maxPositions);
  const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit };
  const optimizer = new Optimizer(lm.backend, trainables, adam);
  try {
    const tokens = bucketLength(batchSize * maxSeqLength);
    const planned = (maxPositions: number, policy: CheckpointPolicy): Program => {
      const hostBytes = activationHostMemory ?? undefined;
      const runner = new StepRunner({ model: lm, optimizer, policy, maxPositions, offload, hostBytes });
      try {
        return runner.program("train", bucketLength(batchSize * maxPositions));
      } finally {
        runner.dispose();
      }
    };
    const minimum = (length: number): number =>
      sum(fixedBytes(lm, length)) + planned(length, { kind: "minimum" }).arenaBytes;
    const fixed = fixedBytes(lm, maxSeqLength);
    const modes = planModes((policy) => planned(maxSeqLength, policy), sum(fixed), memory);
    return {
      model: {
        family: config.family,
        layers: config.layers,
        parameters: count(lm.parameters.values()),
        maxPositions: config.maxPositions,
      },
      trainable: count(trainables.map(({ tensor }) => tensor)),
      batchSize,
      maxSeqLength,
      tokens,
      fixed,
      modes,
      host: hostBytes(lm),
      memory,
      fits: modes.some((mode) => mode.fits),
      longest: longestLength(minimum, memory, config.maxPositions),
      warnings: "warnings" in model ? model.warnings : [],
    };
  } finally {
    optimizer.dispose();
  }
}

/** Bytes of what stays from step to step. */
export function fixedBytes({ backend, config }: CausalLM, maxPositions: number): TrainingPlan["fixed"] {
  const { weight: weights, adapter, gradient: gradients, optimizer } = backend.memory().tensors;
  // Not as the backend counts them: planning has made tables for other lengths too.
  return { weights, adapter, gradients, optimizer, constants: 4 * maxPositions * config.headDim };
}

/** Bytes in host memory beside those of a GPU. */
export const hostBytes = ({ backend }: CausalLM): number => backend.memory().host ?? 0;

const sum = (parts: TrainingPlan["fixed"]): number => Object.values(parts).reduce((total, bytes) => total + bytes, 0);

async function configPath({ modelName, hub = {} }: PlanTrainingOptions): Promise<string> {
  if (existsSync(resolve(modelName))) return resolve(modelName);
  const isGguf = modelName.includes(":");
  const { path } = await locateModel(modelName, { ...hub, ...(!isGguf && { allowPatterns: ["config.json"] }) });
  return isGguf ? path : join(path, "config.json");
}

function count(tensors: Iterable<{ readonly shape: readonly number[] }>): number {
  let total = 0;
  for (const { shape } of tensors) total += numel(shape);
  return total;
}

/** The ways of checkpointing of a program, beside `fixed` bytes of everything else. */
export function planModes(program: (policy: CheckpointPolicy) => Program, fixed: number, memory: number): ModePlan[] {
  const keep = program({ kind: "keep" });
  const plain = estimate(keep);
  const planOf = (mode: CheckpointMode, planned: Program): ModePlan => {
    const total = fixed + planned.arenaBytes;
    const recomputing = plain > 0 ? estimate(planned) / plain - 1 : 0;
    return { mode, program: planned, activations: planned.arenaBytes, total, fits: total <= memory, recomputing };
  };
  const modes = [planOf("keep", keep), planOf("recompute", program({ kind: "recompute" }))];
  try {
    modes.push(planOf("unsloth", program({ kind: "budget", bytes: Math.max(0, memory - fixed) })));
  } catch (error) {
    if (!(error instanceof MemoryPlanError)) throw error;
    const activations = error.needed;
    modes.push({
      mode: "unsloth",
      program: null,
      activations,
      total: fixed + activations,
      fits: false,
      recomputing: 0,
    });
  }
  return modes;
}

/** Seconds of a program by the backend's rates; only ratios mean anything. */
function estimate(program: Program): number {
  const rates = { flopsPerSecond: 1e11, bytesPerSecond: 1e10, hostBytesPerSecond: null };
  return program.steps.reduce((sum, node) => sum + (node.op.cost ? seconds(node.op.cost(node), rates) : 0), 0);
}

/** Lengths are looked for in these steps; programs are made for no finer ones. */
const STEP = 64;

/** The longest length whose bytes fit, to 64 tokens: bytes grow with the length. */
function longestLength(bytes: (length: number) => number, memory: number, limit: number): number {
  const fits = (steps: number): boolean => bytes(Math.min(limit, steps * STEP)) <= memory;
  const most = Math.ceil(limit / STEP);
  if (!fits(1)) return 0;
  let good = 1;
  let bad = 2;
  while (bad < most && fits(bad)) [good, bad] = [bad, bad * 2];
  if (bad >= most) {
    if (fits(most)) return limit;
    bad = most;
  }
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    if (fits(middle)) good = middle;
    else bad = middle;
  }
  return good * STEP;
}
