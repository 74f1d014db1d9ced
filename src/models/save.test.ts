import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fixtures } from "../formats/files.test.support.ts";
import { describeModel, formatCount } from "./describe.ts";
import {
  copiedModel,
  FAMILY_FIXTURES,
  familyModel,
  readJson,
  readTensors,
  testBackend,
} from "./load/checkpoint.test.support.ts";
import { loadModel } from "./load/load.ts";
import { createRandomModel } from "./load/random.ts";
import { saveModel } from "./save.ts";

function newFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "unsloth-save-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, "not", "there", "yet");
}

test("a model that was loaded is saved as the same files", async (t) => {
  const backend = await testBackend(t);
  for (const family of FAMILY_FIXTURES) {
    const path = familyModel(family);
    using model = await loadModel({ path, backend });
    const folder = newFolder(t);
    await saveModel(model, folder);
    assert.deepEqual(readdirSync(folder).sort(), ["config.json", "model.safetensors"]);
    for (const file of readdirSync(folder)) {
      assert.ok(readFileSync(join(folder, file)).equals(readFileSync(join(path, file))), `${family}/${file}`);
    }
  }
});

test("a bitsandbytes checkpoint is saved as the same files", async (t) => {
  const backend = await testBackend(t);
  for (const dtype of ["f32", "bf16"]) {
    const path = join(fixtures("oracle"), "nf4", `model_${dtype}`);
    using model = await loadModel({ path, backend });
    const folder = newFolder(t);
    await saveModel(model, folder);
    for (const file of ["config.json", "model.safetensors"]) {
      assert.ok(readFileSync(join(folder, file)).equals(readFileSync(join(path, file))), `${dtype} ${file}`);
    }
  }
});

test("a model quantised here is saved with a quantization_config, and loads as it was", async (t) => {
  const backend = await testBackend(t);
  const path = familyModel("llama3");
  for (const doubleQuant of [true, false]) {
    using model = await loadModel({
      path,
      backend,
      loadIn4bit: true,
      dtype: "bfloat16",
      quantization: { doubleQuant },
    });
    const folder = newFolder(t);
    await saveModel(model, folder);
    const expected = readJson(join(fixtures("oracle"), "nf4"), "model_bf16/config.json").quantization_config as object;
    const { quantization_config, dtype } = readJson(folder);
    assert.equal(dtype, "bfloat16");
    assert.deepEqual(quantization_config, { ...expected, bnb_4bit_use_double_quant: doubleQuant });
    using again = await loadModel({ path: folder, backend });
    for (const [name, tensor] of model.parameters) {
      const other = again.parameter(name);
      assert.equal(other.dtype, tensor.dtype, name);
      // Norms are float32 in memory and bfloat16 in the file, like everything that is not quantised.
      if (name.endsWith("norm.weight")) continue;
      assert.deepEqual(await backend.dequantize(other), await backend.dequantize(tensor), name);
    }
  }
});

test("shards, another dtype and the generation configuration", async (t) => {
  const backend = await testBackend(t);
  const path = copiedModel(t, familyModel("llama_bf16_sharded"));
  writeFileSync(join(path, "generation_config.json"), '{"eos_token_id": [2, 3]}');
  using model = await loadModel({ path, backend });
  const folder = newFolder(t);
  await saveModel(model, folder, { maxShardBytes: 36e3 });
  const written = readdirSync(folder).sort();
  assert.deepEqual(written, readdirSync(path).sort());
  for (const file of written.filter((name) => name.endsWith(".safetensors"))) {
    assert.deepEqual(readFileSync(join(folder, file)), readFileSync(join(path, file)), file);
  }
  assert.deepEqual(readJson(folder, "model.safetensors.index.json"), readJson(path, "model.safetensors.index.json"));
  assert.deepEqual(readJson(folder, "generation_config.json"), { eos_token_id: [2, 3] });

  // Over what is there: the shards and the generation configuration go.
  await saveModel(model, folder, { dtype: "float32", generationConfig: null });
  assert.deepEqual(readdirSync(folder).sort(), ["config.json", "model.safetensors"]);
  assert.equal(readJson(folder).dtype, "float32");
  const tensors = readTensors(folder);
  for (const [name, tensor] of model.parameters) {
    assert.equal(tensors.get(name)!.dtype, "F32");
    const numbers = await backend.dequantize(tensor);
    assert.deepEqual(new Float32Array(tensors.get(name)!.data.slice().buffer), numbers, name);
  }
});

test("a GGUF file becomes a folder that is the same model", async (t) => {
  const backend = await testBackend(t);
  for (const family of ["llama3", "gemma2", "mistral"]) {
    const path = join(fixtures("oracle"), "gguf_models", `${family}-f32.gguf`);
    using model = await loadModel({ path, backend });
    const folder = newFolder(t);
    await saveModel(model, folder);
    assert.equal(readJson(folder).torch_dtype, "float32");
    using again = await loadModel({ path: folder, backend });
    assert.deepEqual(again.config, model.config);
    for (const [name, tensor] of model.parameters) {
      assert.deepEqual(await again.parameter(name).read(), await tensor.read(), name);
    }
  }
});

test("a number that float16 cannot hold is an error, and config.json is not there to be loaded", async (t) => {
  const backend = await testBackend(t);
  const config = readJson(familyModel("llama"));
  using model = await createRandomModel({ config, backend, initializerRange: 1e6 });
  const folder = newFolder(t);
  await assert.rejects(saveModel(model, folder, { dtype: "float16" }), /all that float16 can hold/);
  assert.ok(!existsSync(join(folder, "config.json")));
});

test("a summary counts parameters and bytes", async (t) => {
  const backend = await testBackend(t);
  using model = await loadModel({ path: familyModel("llama"), backend, loadIn4bit: true });
  const { parameters, bytes, byDType, text } = describeModel(model);
  const linear = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 88 * 32);
  assert.equal(parameters, linear + 2 * 97 * 32 + 5 * 32);
  assert.equal(bytes, model.parameterBytes);
  assert.equal(bytes, backend.memory().tensors.weight);
  assert.deepEqual(
    byDType.map((row) => [row.dtype, row.tensors, row.parameters]),
    [
      ["nf4", 14, linear],
      ["f32", 7, 2 * 97 * 32 + 5 * 32],
    ],
  );
  assert.match(text, /^llama: 2 layers of 32, vocabulary 97\n29\.4K parameters in \d/);
  assert.equal(formatCount(8_030_261_248), "8.03B");
  assert.equal(formatCount(494_032_768), "494M");
  assert.equal(formatCount(999), "999");
});
