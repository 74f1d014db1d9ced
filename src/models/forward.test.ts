import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fixtures } from "../formats/files.test.support.ts";
import { openSafetensors } from "../formats/safetensors.ts";
import { relativeError } from "../testing/kernels.ts";
import { forwardLogits } from "../testing/model-run.ts";
import { FAMILY_FIXTURES, familyModel, readJson, testBackend } from "./load/checkpoint.test.support.ts";
import { loadModel } from "./load/load.ts";

/** Of float32 against a float64 reference; 1.4e-6 was the most seen. */
const TOLERANCE = 1e-5;

/** `logits.0`, `logits.1`, … of a fixture. */
function expectedLogits(file: string, count: number): Float32Array[] {
  using source = openSafetensors(file);
  return Array.from({ length: count }, (_, i) => {
    const { byteLength } = source.tensors.get(`logits.${i}`)!;
    const logits = new Float32Array(byteLength / 4);
    source.readIntoSync(`logits.${i}`, new Uint8Array(logits.buffer));
    return logits;
  });
}

function assertClose(got: readonly Float32Array[], want: readonly Float32Array[], tolerance = TOLERANCE): void {
  assert.equal(got.length, want.length);
  got.forEach((logits, i) => {
    const error = relativeError(logits, want[i]!);
    assert.ok(error <= tolerance, `sequence ${i}: relative error ${error}`);
  });
}

function familyExpectation(family: string) {
  const folder = join(fixtures("oracle"), "families", family);
  const { input_ids: ids } = readJson(folder, "expect.json").batch as { input_ids: number[][] };
  return { ids, logits: expectedLogits(join(folder, "expect.safetensors"), ids.length) };
}

for (const family of [...FAMILY_FIXTURES, "llama_bf16_sharded"] as const) {
  test(`${family}: packed sequences give the logits that transformers gives for each alone`, async (t) => {
    const { ids, logits } = familyExpectation(family);
    using model = await loadModel({ path: familyModel(family), backend: await testBackend(t) });
    assertClose(await forwardLogits(model, ids), logits);
    // Alone and in another order: nothing leaks from one sequence into another.
    assertClose(await forwardLogits(model, [ids[1]!]), [logits[1]!]);
    assertClose(await forwardLogits(model, ids.toReversed()), logits.toReversed());
  });
}

for (const dtype of ["f32", "bf16"] as const) {
  test(`NF4 weights of bitsandbytes in a ${dtype} model`, async (t) => {
    const folder = join(fixtures("oracle"), "nf4");
    const ids = readJson(folder, `expect_${dtype}.json`).input_ids as number[][];
    const logits = expectedLogits(join(folder, `expect_${dtype}.safetensors`), ids.length);
    using model = await loadModel({ path: join(folder, `model_${dtype}`), backend: await testBackend(t) });
    // The reference rounds decoded weights to bfloat16, as transformers does; we multiply by them unrounded.
    assertClose(await forwardLogits(model, ids), logits, dtype === "f32" ? TOLERANCE : 0.02);
  });
}

test("GGUF files give the same logits as the folders they were made from", async (t) => {
  const backend = await testBackend(t);
  for (const family of FAMILY_FIXTURES) {
    const { ids, logits } = familyExpectation(family);
    const path = join(fixtures("oracle"), "gguf_models", `${family}-f32.gguf`);
    using model = await loadModel({ path, backend });
    assertClose(await forwardLogits(model, ids), logits);
  }
});
