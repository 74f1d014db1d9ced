import assert from "node:assert/strict";
import { test } from "node:test";
import { initialValues } from "./init.ts";
import type { AdapterTensorSpec } from "./layout.ts";
import { loraConfig } from "./lora-config.ts";

const spec = (kind: "A" | "B", of: "linear" | "embedding", shape: [number, number]): AdapterTensorSpec => ({
  name: `module.lora_${kind}.weight`,
  aliases: [],
  shape,
  kind,
  target: { path: "module", kind: of, shape: [300, 200], r: 16, alpha: 16, scale: 1 },
  parameters: [],
  decay: true,
});
const A = spec("A", "linear", [16, 200]);
const B = spec("B", "linear", [300, 16]);
const embeddingA = spec("A", "embedding", [16, 300]);
const embeddingB = spec("B", "embedding", [200, 16]);

function statistics(values: Float32Array): { mean: number; deviation: number; largest: number } {
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
  const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length;
  return { mean, deviation: Math.sqrt(variance), largest: values.reduce((m, x) => Math.max(m, Math.abs(x)), 0) };
}
const near = (value: number, expected: number, tolerance: number): void =>
  assert.ok(Math.abs(value - expected) <= tolerance, `${value} is not within ${tolerance} of ${expected}`);

test("A is uniform over ±1/√in and B zero", () => {
  const { mean, deviation, largest } = statistics(initialValues(A, loraConfig()));
  const bound = 1 / Math.sqrt(200);
  assert.ok(largest <= bound && largest > 0.99 * bound);
  near(mean, 0, 0.05 * bound);
  near(deviation, bound / Math.sqrt(3), 0.03 * bound);
  assert.ok(initialValues(B, loraConfig()).every((x) => x === 0));
});

test("gaussian: A has deviation 1/r, B is zero", () => {
  const config = loraConfig({ initLoraWeights: "gaussian" });
  const { mean, deviation } = statistics(initialValues(A, config));
  near(mean, 0, 0.05 / 16);
  near(deviation, 1 / 16, 0.03 / 16);
  assert.ok(initialValues(B, config).every((x) => x === 0));
});

test("embeddings: A zero, B normal", () => {
  assert.ok(initialValues(embeddingA, loraConfig()).every((x) => x === 0));
  const { mean, deviation } = statistics(initialValues(embeddingB, loraConfig()));
  near(mean, 0, 0.06);
  near(deviation, 1, 0.04);
});

test("false: nothing is zero", () => {
  const config = loraConfig({ initLoraWeights: false });
  const { deviation, largest } = statistics(initialValues(B, config));
  assert.ok(largest <= 0.25);
  near(deviation, 0.25 / Math.sqrt(3), 0.01);
  near(statistics(initialValues(embeddingA, config)).deviation, 1, 0.04);
});

test("values depend on the seed and the tensor's name only", () => {
  assert.deepEqual(initialValues(A, loraConfig()), initialValues(A, loraConfig({ r: 64, loraAlpha: 1 })));
  assert.notDeepEqual(initialValues(A, loraConfig()), initialValues(A, loraConfig({ randomState: 1 })));
  assert.notDeepEqual(initialValues(A, loraConfig()), initialValues({ ...A, name: "other" }, loraConfig()));
});
