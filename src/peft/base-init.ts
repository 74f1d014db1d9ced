import type { DeviceTensor } from "../backends/backend.ts";
import { convertDense } from "../models/load/convert.ts";
import type { CausalLM } from "../models/model.ts";
import { OptionError } from "../util/options.ts";
import { Rng } from "../util/rng.ts";
import type { AdapterTensor } from "./adapter.ts";
import type { BaseChanges } from "./base-changes.ts";
import { streamSeed } from "./init.ts";
import { columns, fromFloats, type Matrix, multiply, transpose } from "./linear-algebra/matrix.ts";
import { orthogonalFactor } from "./linear-algebra/qr.ts";
import { exactSingular, iteratedSingular, leadingSingular, type Singular } from "./linear-algebra/svd.ts";
import type { LoraConfig } from "./lora-config.ts";
import { EMBEDDING, HEAD } from "./modules.ts";
import { originalWeights } from "./original-weights.ts";
import { ProductRunner } from "./products.ts";
import type { LoraTarget } from "./targets.ts";
import { readWeight, writeFloats } from "./weights.ts";

/** Matrices whose smaller side is at most this are decomposed exactly, larger ones by a search. */
const EXACT = 256;

/** First values of an update, A [r, in] and B [out, r], and what is left for the base weight, [out, in]. */
interface Start {
  readonly a: Matrix;
  readonly b: Matrix;
}

/** Whether an initialisation takes A and B from the base weight and changes it. */
export function changesBase({ initLoraWeights: how }: LoraConfig): boolean {
  return typeof how === "string" && (how === "olora" || how === "loftq" || how.startsWith("pissa"));
}

/**
 * Fills A and B of the linear modules from their base weights, which are changed so that the sum is as it was:
 *
 * - PiSSA (Meng et al. 2024): A = √(S/s)·Vᵀ and B = U·√(S/s) of the r largest singular values, W ← W − s·B·A;
 *   "pissa_niter_N" finds them with N rounds of subspace iteration.
 * - OLoRA (Büyükakyüz 2024): B and A are the first r columns of Q and rows of R of W = Q·R, W ← W − s·B·A.
 * - LoftQ (Li et al. 2023): W ← nf4(W − B·A) and B·A ← the r largest singular values of W − nf4(…), in turns, beginning
 *   with B·A = 0. The weight becomes a 4-bit one. As in PEFT s is not made up for: use loraAlpha = r.
 *
 * Embeddings start as ever. Gives the first A and B by tensor name where W + s·(B·A − B₀·A₀) is the whole truth (PiSSA and
 * OLoRA). Throws OptionError before anything is changed. Any other error leaves weights that `changes` can put back, as it has
 * to until the adapter is whole.
 */
export async function startFromBase(
  model: CausalLM,
  config: LoraConfig,
  targets: readonly LoraTarget[],
  tensors: readonly AdapterTensor[],
  owner: string,
  changes: BaseChanges,
): Promise<ReadonlyMap<string, Float32Array>> {
  if (model.adapter) {
    throw new OptionError(
      `${owner}: initLoraWeights "${config.initLoraWeights}" would change the weights under the model's other adapters: start from a model without one`,
    );
  }
  const linear = targets.filter(({ kind }) => kind === "linear");
  for (const target of linear) checkTarget(model, config, target, owner);
  const originals = config.initLoraWeights === "loftq" ? originalWeights(model, linear, owner) : null;
  const runner = new ProductRunner(model.backend);
  const pairs = new Map<LoraTarget, readonly [a: Float32Array, b: Float32Array]>();
  try {
    for (const target of linear) {
      const start = originals
        ? await loftq(model, config, target, originals, runner, changes)
        : await residualStart(model, config, target, runner);
      pairs.set(target, [Float32Array.from(start.a.data), Float32Array.from(start.b.data)]);
    }
  } finally {
    runner.dispose();
    originals?.close();
  }
  const first = new Map<string, Float32Array>();
  for (const [target, pair] of pairs) {
    for (const [i, kind] of (["A", "B"] as const).entries()) {
      const { name, tensor } = tensors.find((one) => one.target === target && one.kind === kind)!;
      writeFloats(tensor, pair[i]!);
      first.set(name, pair[i]!);
    }
  }
  if (originals) return new Map();
  // All decompositions, which take the time and memory, have been made by now.
  for (const [target, pair] of pairs) await subtract(model, target, pair, changes);
  return first;
}

function checkTarget(model: CausalLM, config: LoraConfig, { path, r, shape }: LoraTarget, owner: string): void {
  const how = `initLoraWeights "${config.initLoraWeights}"`;
  const fail = (message: string): never => {
    throw new OptionError(`${owner}: ${how}: ${message}`);
  };
  if (r > Math.min(...shape)) fail(`rank ${r} is more than ${path}'s weight of ${shape.join(" × ")} has`);
  if (path === HEAD && model.config.tiedHead) {
    fail(`${HEAD} is the table of ${EMBEDDING}, and would change with it: leave it out of targetModules`);
  }
  const { dtype } = model.parameter(`${path}.weight`);
  if (
    dtype === "int8" ||
    (dtype === "nf4" && config.initLoraWeights !== "loftq" && config.initLoraWeights !== "olora")
  ) {
    fail(`${path} is in ${dtype === "nf4" ? 4 : 8} bits: load the model with loadIn4bit: false and loadIn8bit: false`);
  }
}

/** PiSSA and OLoRA: A and B of which the base weight is then rid. */
async function residualStart(
  model: CausalLM,
  config: LoraConfig,
  target: LoraTarget,
  runner: ProductRunner,
): Promise<Start> {
  const weight = await readWeight(model.backend, model.parameter(`${target.path}.weight`));
  return config.initLoraWeights === "olora"
    ? olora(target, weight)
    : halves(await pissa(config, target, weight, runner), Math.sqrt(1 / target.scale));
}

/** W ← W − s·B·A, of A and B in f32, as they are stored. */
async function subtract(
  model: CausalLM,
  { path, scale, r, shape: [out, width] }: LoraTarget,
  [a, b]: readonly [Float32Array, Float32Array],
  changes: BaseChanges,
): Promise<void> {
  const tensor = model.parameter(`${path}.weight`);
  const weight = await readWeight(model.backend, tensor);
  for (let i = 0; i < out; i++) {
    for (let k = 0; k < r; k++) {
      const factor = scale * b[i * r + k]!;
      for (let j = 0; j < width; j++) weight[i * width + j]! -= factor * a[k * width + j]!;
    }
  }
  await changes.keep(tensor);
  store(model, tensor, weight);
}

async function pissa(
  { initLoraWeights, randomState }: LoraConfig,
  target: LoraTarget,
  weight: Float32Array,
  runner: ProductRunner,
): Promise<Singular> {
  const { path, r } = target;
  const rounds = /^pissa_niter_(\d+)$/.exec(String(initLoraWeights))?.[1];
  if (rounds === undefined) return largestSingular(target, weight, runner, randomState);
  const products = runner.load(...target.shape, weight);
  return iteratedSingular(products, r, Number(rounds), new Rng(streamSeed(randomState, path)));
}

/** The r largest singular values of a weight. */
function largestSingular(
  { path, shape: [out, width], r }: LoraTarget,
  weight: Float32Array,
  runner: ProductRunner,
  seed: number,
): Singular | Promise<Singular> {
  if (Math.min(out, width) <= EXACT) return exactSingular(fromFloats(out, width, weight), r);
  return leadingSingular(runner.load(out, width, weight), r, new Rng(streamSeed(seed, path)));
}

/** factor·√S·Vᵀ and factor·U·√S. */
function halves({ left, values, right }: Singular, factor: number): Start {
  const roots = values.map((value) => factor * Math.sqrt(value));
  return {
    a: { ...right, data: right.data.map((value, i) => value * roots[Math.floor(i / right.cols)]!) },
    b: { ...left, data: left.data.map((value, i) => value * roots[i % left.cols]!) },
  };
}

function olora({ shape: [out, width], r }: LoraTarget, weight: Float32Array): Start {
  const w = fromFloats(out, width, weight);
  // Q's first r columns depend on W's first r columns only.
  const b = orthogonalFactor(columns(w, 0, r));
  return { a: multiply(transpose(b), w), b };
}

async function loftq(
  model: CausalLM,
  { loftqConfig, randomState }: LoraConfig,
  target: LoraTarget,
  originals: ReturnType<typeof originalWeights>,
  runner: ProductRunner,
  changes: BaseChanges,
): Promise<Start> {
  const { backend } = model;
  const name = `${target.path}.weight`;
  const weight = await originals.read(name);
  let tensor = model.parameter(name);
  let start: Start | null = null;
  for (let round = 0; round < loftqConfig!.loftqIter; round++) {
    if (tensor.dtype !== "nf4") {
      const quantised = backend.createTensor(name, "nf4", tensor.shape, { role: "weight", blockSize: 64 });
      changes.replace(name, quantised);
      store(model, quantised, weight);
      tensor = quantised;
    } else if (start) {
      await changes.keep(tensor);
      store(model, tensor, minus(weight, multiply(start.b, start.a).data));
    }
    const residual = minus(weight, await backend.dequantize(tensor));
    start = halves(await largestSingular(target, residual, runner, randomState), 1);
  }
  return start!;
}

const minus = (a: Float32Array, b: ArrayLike<number>): Float32Array => a.map((value, i) => value - b[i]!);

/** Writes numbers into a weight of any type, rounded to it. */
function store({ backend }: CausalLM, tensor: DeviceTensor, values: Float32Array): void {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (tensor.dtype === "nf4") {
    backend.quantize(tensor, "f32", (target, offset) => target.set(bytes.subarray(offset, offset + target.length)));
  } else {
    tensor.write(convertDense(bytes, "f32", tensor.dtype as "f32", tensor.name));
  }
}
