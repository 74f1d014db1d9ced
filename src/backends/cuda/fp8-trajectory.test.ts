import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { collate, tokenizeRows } from "../../data/index.ts";
import { openSafetensors } from "../../formats/safetensors.ts";
import type { DType, Shape } from "../../graph/types.ts";
import { loadModel } from "../../models/load/load.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { getPeftModel } from "../../peft/index.ts";
import { generateProblems } from "../../quickstart/problems.ts";
import { EMBEDDED_MODEL } from "../../quickstart/quickstart.ts";
import { oracleJson } from "../../testing/oracle.ts";
import { Tokenizer } from "../../tokenizer/index.ts";
import { StepRunner } from "../../train/step.ts";
import type { TensorOptions } from "../backend.ts";
import { CudaBackend } from "./backend.ts";
import { skip as noGpu } from "./gpu.test.support.ts";
import { cudaStatus } from "./status.ts";
import type { CudaTensor } from "./tensor.ts";

const capability = cudaStatus().devices[0]?.computeCapability ?? 0;
const skip = noGpu || (capability < 89 ? "no e4m3 on this card" : false);

/** What tests/oracle/fp8_trajectory.py wrote. */
interface Fixture {
  readonly learning_rate: number;
  readonly max_grad_norm: number;
  readonly sha256: { readonly batches: string; readonly adapter: string };
  readonly losses: readonly Training[];
}

/** Losses of every step from batch `start` on: without e4m3; with it in all frozen products; in all but the outer layers'. */
interface Training {
  readonly start: number;
  readonly none: readonly number[];
  readonly everywhere: Emulated;
  readonly inner: Emulated;
}

/** By what else than the frozen products was rounded. */
type Emulated = Readonly<Record<"float32" | "bfloat16", readonly number[]>>;

const sha256 = (data: string): string => createHash("sha256").update(data).digest("hex");
const mean = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;

/** How far a training's losses lie above those without e4m3, in the mean of its steps. */
const costOf = (training: Training, losses: readonly number[]): number => mean(losses) - mean(training.none);

const ROUNDINGS = ["float32", "bfloat16"] as const;
type Where = "everywhere" | "inner";

/**
 * Trainings with e4m3 cost what the emulation's do, as well as six of them can tell: whatever is rounded otherwise, once, moves
 * the losses of all later steps, and a single training's cost by more than e4m3 does. So means over the trainings are compared, to four
 * standard errors of their difference.
 */
function assertCost(found: ReadonlyMap<Training, number>, where: Where): void {
  const trainings = [...found.keys()];
  const emulated = ROUNDINGS.map((rounding) => trainings.map((t) => costOf(t, t[where][rounding])));
  const expected = mean(emulated.map(mean));
  const variance = mean(emulated.map((costs) => mean(costs.map((cost) => (cost - mean(costs)) ** 2))));
  const tolerance = 4 * Math.sqrt((2 * variance) / (trainings.length - 1));
  const cost = mean([...found.values()]);
  assert.ok(
    Math.abs(cost - expected) <= tolerance,
    `losses ${cost} above those without e4m3; the emulation's ${expected} ± ${tolerance}`,
  );
}

const fixture = (): Fixture => oracleJson<Fixture>("fp8", "trajectory.json");

test("trainings with emulated e4m3 cost what they do, and those of a worse format cost more", () => {
  const { losses } = fixture();
  const costs = (lossesOf: (training: Training) => readonly number[], more = 0) =>
    new Map(losses.map((training) => [training, costOf(training, lossesOf(training)) + more]));
  for (const where of ["everywhere", "inner"] as const) {
    for (const rounding of ROUNDINGS)
      assertCost(
        costs((t) => t[where][rounding]),
        where,
      );
    const worse = costs(({ none }) => none, 0.04);
    assert.throws(() => assertCost(worse, where), /losses 0\.04\d* above those without e4m3/);
  }
  // What the first and the last layer cost: 0.013 and 0.008 in all layers, 0.003 and 0.005 without these two.
  const all = (where: Where): number => mean(ROUNDINGS.map((r) => mean([...costs((t) => t[where][r]).values()])));
  assert.ok(all("inner") < all("everywhere") / 2);
});

/** A card that is not told which weights are to be precise. */
class Everywhere extends CudaBackend {
  override createTensor(name: string, dtype: DType, shape: Shape, options: TensorOptions): CudaTensor {
    return super.createTensor(name, dtype, shape, { ...options, precise: false });
  }
}

/** Of the values of a saved adapter, tensor after tensor by name. */
function adapterDigest(folder: string): string {
  using file = openSafetensors(join(folder, "adapter_model.safetensors"));
  const hash = createHash("sha256");
  for (const name of [...file.tensors.keys()].sort()) {
    const values = new Uint8Array(file.tensors.get(name)!.byteLength);
    file.readIntoSync(name, values);
    hash.update(values);
  }
  return hash.digest("hex");
}

/** Losses of a training of the fixture's. */
async function lossesOn(backend: CudaBackend, fixture: Fixture, { none, start }: Training): Promise<number[]> {
  const [batchSize, maxPositions] = [8, 256];
  const steps = none.length;
  const tokenizer = await Tokenizer.fromFolder(EMBEDDED_MODEL);
  const { train } = generateProblems({ train: steps * batchSize, test: 1, seed: 3407 });
  const located = train.map(({ row }, i) => ({ row, where: `row ${i}` }));
  const { rows } = tokenizeRows(located, tokenizer, { maxSeqLength: maxPositions, assistantOnlyLoss: true });
  const batches = Array.from({ length: steps }, (_, i) => rows.slice(i * batchSize, (i + 1) * batchSize));
  const plain = batches.map((batch) =>
    batch.map(({ inputIds, labels }) => ({ ids: [...inputIds], labels: [...labels] })),
  );
  assert.equal(sha256(JSON.stringify(plain)), fixture.sha256.batches, "the fixture was made from other batches");

  const folder = mkdtempSync(join(tmpdir(), "fp8-trajectory-"));
  try {
    const base = await loadModel({ path: EMBEDDED_MODEL, backend, dtype: "bfloat16" });
    using model = await getPeftModel(base, { r: 16, loraAlpha: 32, randomState: 3407 });
    await model.savePretrained(folder);
    assert.equal(adapterDigest(folder), fixture.sha256.adapter, "the fixture was made from another adapter");
    const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
    const optimizer = new Optimizer(backend, model.trainable(), adam);
    const runner = new StepRunner({ model: base, optimizer, policy: { kind: "keep" }, maxPositions });
    const losses: number[] = [];
    for (const batch of [...batches.slice(start), ...batches.slice(0, start)]) {
      const data = collate(batch.map((row) => [row]));
      losses.push((await runner.train(data, 1 / data.numTargets, new Uint32Array(2))).loss);
      await optimizer.update(fixture.learning_rate, fixture.max_grad_norm);
    }
    runner.dispose();
    optimizer.dispose();
    return losses;
  } finally {
    rmSync(folder, { recursive: true });
    backend.dispose();
  }
}

/** What e4m3 costs in each of the fixture's trainings. */
async function costsOn(open: () => CudaBackend): Promise<Map<Training, number>> {
  const expected = fixture();
  const found = new Map<Training, number>();
  for (const training of expected.losses) {
    found.set(training, costOf(training, await lossesOn(open(), expected, training)));
  }
  return found;
}

const OPTIONS = { computeDtype: "bf16", fp8: true } as const;

test("fifty LoRA steps with every frozen product in fp8 cost what their emulation does (CUDA)", { skip }, async () => {
  assertCost(await costsOn(() => new Everywhere(OPTIONS)), "everywhere");
});

test("fifty LoRA steps as fp8 does them cost what their emulation does (CUDA)", { skip }, async () => {
  assertCost(await costsOn(() => new CudaBackend(OPTIONS)), "inner");
});
