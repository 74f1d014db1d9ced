import assert from "node:assert/strict";
import { test } from "node:test";
import { bf16ToF32, f32ToBf16 } from "../../formats/float16.ts";
import type { CheckpointPolicy } from "../../graph/plan.ts";
import { loadModel } from "../../models/load/load.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { PeftModel } from "../../peft/index.ts";
import { randomSource, relativeError } from "../../testing/kernels.ts";
import { oracleJson, oraclePath } from "../../testing/oracle.ts";
import { type OracleBatch, oracleBatch } from "../../testing/oracle-batch.ts";
import { StepRunner } from "../../train/step.ts";
import { gpu, skipBf16 as skip } from "./gpu.test.support.ts";

interface Gradients {
  readonly names: readonly string[];
  readonly bytes: readonly Buffer[];
  /** Of the last microbatch. */
  readonly loss: number;
  readonly copies: number;
}

/** Gradients of four microbatches: the first enqueued launch by launch, the others replayed from graphs. */
async function gradients(policy: CheckpointPolicy, offload: boolean): Promise<Gradients> {
  const { batch } = oracleJson<{ batch: OracleBatch }>("families", "llama", "expect.json");
  const backend = gpu("bf16");
  backend.poison = true;
  const base = await loadModel({ path: oraclePath("families", "llama", "model"), backend });
  using model = await PeftModel.fromPretrained(base, oraclePath("families", "llama", "adapter"), { isTrainable: true });
  const options = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
  const optimizer = new Optimizer(backend, model.trainable(), options);
  const runner = new StepRunner({ model: base, optimizer, policy, offload, maxPositions: 32 });
  const data = oracleBatch(batch);
  let loss = 0;
  for (let i = 0; i < 4; i++) loss = (await runner.train(data, 1 / 64, new Uint32Array(2))).loss;
  const reads = optimizer.trainables.map(async (t) => Buffer.from(await optimizer.gradient(t).read()));
  const bytes = await Promise.all(reads);
  const copies = runner
    .program("train", data.inputIds.length)
    .steps.filter(({ op }) => op.name === "offload" || op.name === "fetch").length;
  runner.dispose();
  optimizer.dispose();
  backend.poison = false;
  return { names: optimizer.trainables.map(({ name }) => name), bytes, loss, copies };
}

/** How many bytes differ; comparing arrays of them would print each. */
const differing = (a: readonly Buffer[], b: readonly Buffer[]): number =>
  a.reduce((sum, tensor, i) => sum + tensor.reduce((n, byte, at) => n + (byte === b[i]![at] ? 0 : 1), 0), 0);

for (const kind of ["recompute", "minimum"] as const) {
  test(`activations copied to the host and back beside arithmetic change no bit of the gradients (CUDA, ${kind})`, {
    skip,
  }, async () => {
    const here = await gradients({ kind }, false);
    const offloaded = await gradients({ kind }, true);
    assert.equal(here.copies, 0);
    assert.ok(offloaded.copies >= 4, `${offloaded.copies} copies`);
    assert.ok(here.bytes.some((tensor) => tensor.some((byte) => byte !== 0)));
    assert.equal(differing(offloaded.bytes, here.bytes), 0);
  });
}

/** Losses, and the gradients that differ with their relative errors, in the model's order. */
function differences(a: Gradients, b: Gradients): string {
  const norms = a.bytes.map((bytes, i) => {
    const [x, y] = [bytes, b.bytes[i]!].map(floats) as [Float32Array, Float32Array];
    let [difference, total] = [0, 0];
    x.forEach((value, j) => {
      difference += (value - y[j]!) ** 2;
      total += value ** 2;
    });
    return `${a.names[i]} ${Math.sqrt(difference / total).toExponential(1)}`;
  });
  return `loss ${a.loss} and ${b.loss}; ${norms.filter((text) => !text.endsWith(" 0.0e+0")).join(", ")}`;
}
const floats = (bytes: Buffer): Float32Array => new Float32Array(Uint8Array.from(bytes).buffer);

test("the same program gives the same gradients twice, and recomputing changes no bit of them (CUDA)", {
  skip,
}, async () => {
  const kept = await gradients({ kind: "keep" }, false);
  const again = await gradients({ kind: "keep" }, false);
  assert.equal(differing(again.bytes, kept.bytes), 0, `twice: ${differences(again, kept)}`);
  for (const kind of ["recompute", "minimum"] as const) {
    const other = await gradients({ kind }, false);
    assert.equal(other.loss, kept.loss, `${kind}: ${differences(other, kept)}`);
    assert.equal(differing(other.bytes, kept.bytes), 0, `${kind}: ${differences(other, kept)}`);
  }
});

test("a product added to another array and one added to its own differ by rounding at most (CUDA)", { skip }, () => {
  const { device } = gpu("bf16");
  const found: string[] = [];
  for (const [m, n, k] of [
    [64, 32, 32],
    [64, 32, 88],
    [64, 128, 256],
    [1024, 512, 1408],
    [2048, 2048, 5632],
  ] as const) {
    const random = randomSource(m + n + k);
    const [a, b, c] = [m * k, n * k, m * n].map((size) => {
      const address = device.alloc(2 * size);
      const halves = new Uint16Array(size);
      f32ToBf16(Float32Array.from({ length: size }, random), halves);
      device.upload(address, new Uint8Array(halves.buffer));
      return address;
    }) as [number, number, number];
    const d = device.alloc(2 * m * n);
    const product = {
      m,
      n,
      k,
      transA: false,
      transB: true,
      input: "bf16",
      output: "bf16",
      lda: k,
      ldb: k,
      ldc: n,
    } as const;
    const run = (target: number): Float32Array => {
      device.product(product, { a, b, c, d: target, alpha: 1, beta: 1 })();
      const values = new Float32Array(m * n);
      const bytes = device.download(target, 2 * m * n);
      bf16ToF32(new Uint16Array(bytes.buffer, bytes.byteOffset, m * n), values);
      return values;
    };
    const apart = run(d);
    const over = run(c);
    const count = apart.reduce((sum, value, i) => sum + (value === over[i] ? 0 : 1), 0);
    found.push(`${count} of ${m * n} at depth ${k}`);
    assert.ok(relativeError(over, apart) <= 2 ** -7, `[${m}, ${n}, ${k}]: ${relativeError(over, apart)}`);
    for (const address of [a, b, c, d]) device.free(address);
  }
  // A fact of the library that the planner is told to expect (Op.placeMatters), and so no failure.
  console.log(`products added to another array, and over it: ${found.join(", ")} differ`);
});
