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
  /** Of every step: without e4m3; with it in all frozen products; in all but the first and the last layer's. */
  readonly losses: { readonly none: readonly number[]; readonly everywhere: Emulated; readonly inner: Emulated };
}

/** By what else than the frozen products was rounded. */
type Emulated = Readonly<Record<"float32" | "bfloat16", readonly number[]>>;

const sha256 = (data: string): string => createHash("sha256").update(data).digest("hex");
const mean = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;
const distance = (a: readonly number[], b: readonly number[]): number =>
  Math.sqrt(mean(a.map((x, i) => (x - b[i]!) ** 2)));

/** Losses with e4m3 everywhere are those of the emulation rather than of a training without e4m3. */
function assertEmulated(losses: readonly number[], { none, everywhere }: Fixture["losses"]): void {
  const { bfloat16, float32 } = everywhere;
  const between = distance(bfloat16, none);
  // Rounding alone sets two emulations apart: a training may be as far from each, and half as far again.
  const noise = 1.5 * distance(bfloat16, float32);
  assert.ok(noise < between, `the emulations differ by ${noise} among them, by ${between} from no rounding`);
  const far = Math.min(distance(losses, bfloat16), distance(losses, float32));
  assert.ok(far <= noise, `${far} from the emulation, which is ${between} from a training without e4m3`);
  const [gap, expected] = [mean(losses) - mean(none), mean(bfloat16) - mean(none)];
  assert.ok(Math.abs(gap / expected - 1) <= 0.5, `losses ${gap} above those without e4m3; the emulation's ${expected}`);
}

test("the emulation of e4m3 in the fixture is told from a training without it", () => {
  const { losses } = oracleJson<Fixture>("fp8", "trajectory.json");
  assertEmulated(losses.everywhere.float32, losses);
  assert.throws(() => assertEmulated(losses.none, losses), /from the emulation/);
});

test("without the first and the last layer, the emulation loses a fraction", () => {
  const { none, everywhere, inner } = oracleJson<Fixture>("fp8", "trajectory.json").losses;
  for (const rounding of ["float32", "bfloat16"] as const)
    assert.ok(distance(inner[rounding], none) < distance(everywhere[rounding], none) / 3, rounding);
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

/** Losses of the fixture's training. */
async function lossesOn(backend: CudaBackend, fixture: Fixture): Promise<number[]> {
  const [batchSize, maxPositions] = [8, 256];
  const steps = fixture.losses.none.length;
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
    for (const batch of batches) {
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

test("fifty LoRA steps with every frozen product in fp8 follow their emulation (CUDA)", { skip }, async () => {
  const fixture = oracleJson<Fixture>("fp8", "trajectory.json");
  const losses = await lossesOn(new Everywhere({ computeDtype: "bf16", fp8: true }), fixture);
  assertEmulated(losses, fixture.losses);
});

test("fifty LoRA steps as fp8 does them are a third as far from f32 (CUDA)", { skip }, async () => {
  const fixture = oracleJson<Fixture>("fp8", "trajectory.json");
  const { none, everywhere } = fixture.losses;
  const losses = await lossesOn(new CudaBackend({ computeDtype: "bf16", fp8: true }), fixture);
  const [far, all] = [distance(losses, none), distance(everywhere.bfloat16, none)];
  assert.ok(far <= all / 3, `${far} from a training without e4m3; ${all} with e4m3 in every layer`);
});
