import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fixtures, temporaryFolder } from "../../formats/files.test.support.ts";
import { openSafetensors } from "../../formats/safetensors.ts";
import { dequantizeInt8, quantizeInt8 } from "../../quant/int8.ts";
import { saveModel } from "../save.ts";
import {
  changedModel,
  FAMILY_FIXTURES,
  familyModel,
  floats,
  readTensors,
  testBackend,
} from "./checkpoint.test.support.ts";
import type { LoadProgress } from "./fill.ts";
import { loadModel } from "./load.ts";
import type { DenseDType } from "./source.ts";

const nf4Model = (dtype: "f32" | "bf16") => join(fixtures("oracle"), "nf4", `model_${dtype}`);

test("every family's parameters are the file's numbers", async (t) => {
  const backend = await testBackend(t);
  for (const family of FAMILY_FIXTURES) {
    const path = familyModel(family);
    const expected = readTensors(path);
    using model = await loadModel({ path, backend });
    assert.equal(model.config.family, family === "llama3" ? "llama" : family);
    assert.deepEqual(model.warnings, []);
    assert.deepEqual([...model.parameters.keys()].sort(), [...expected.keys()].sort());
    for (const [name, tensor] of model.parameters) {
      assert.equal(tensor.dtype, "f32", name);
      assert.deepEqual(await tensor.read(), expected.get(name)!.data, name);
    }
  }
  assert.equal(backend.memory().tensors.weight, 0, "disposing gives everything back");
});

test("shards in bfloat16 stay bfloat16, their norms become float32", async (t) => {
  const path = familyModel("llama_bf16_sharded");
  const expected = readTensors(path);
  using model = await loadModel({ path, backend: await testBackend(t) });
  for (const [name, tensor] of model.parameters) {
    const want = expected.get(name)!;
    if (!name.endsWith("norm.weight")) {
      assert.equal(tensor.dtype, "bf16", name);
      assert.deepEqual(await tensor.read(), want.data, name);
    } else {
      assert.equal(tensor.dtype, "f32", name);
      assert.deepEqual(new Float32Array((await tensor.read()).buffer as ArrayBuffer), floats(want), name);
    }
  }
});

test("dtype converts matrices and leaves norms and biases in float32", async (t) => {
  const backend = await testBackend(t);
  const path = familyModel("qwen2");
  for (const [dtype, storage] of [
    ["bfloat16", "bf16"],
    ["float16", "f16"],
    ["float32", "f32"],
  ] as const satisfies readonly (readonly [string, DenseDType])[]) {
    using model = await loadModel({ path, backend, dtype });
    for (const [name, tensor] of model.parameters) {
      assert.equal(tensor.dtype, /norm|bias/.test(name) ? "f32" : storage, name);
      const want = floats(readTensors(path).get(name)!);
      const got = await backend.dequantize(tensor);
      // Half an ULP: 8 bits of mantissa in bfloat16, 11 in float16 (and its smallest numbers are 2⁻²⁴ apart).
      const step = { bf16: 2 ** -9, f16: 2 ** -12, f32: 0 }[storage];
      for (let i = 0; i < want.length; i++) {
        assert.ok(Math.abs(got[i]! - want[i]!) <= 2 * step * Math.abs(want[i]!) + (step > 0 ? 2 ** -25 : 0), name);
      }
    }
  }
});

test("loadIn8bit keeps linear layers in 8 bits, and saving gives their numbers", async (t) => {
  const path = familyModel("llama_bf16_sharded");
  const backend = await testBackend(t);
  using model = await loadModel({ path, backend, loadIn8bit: true });
  const expected = readTensors(path);
  for (const [name, tensor] of model.parameters) {
    const linear = /_proj\.weight$/.test(name);
    assert.equal(tensor.dtype === "int8", linear, name);
    if (!linear) continue;
    const { codes, scales } = quantizeInt8(floats(expected.get(name)!));
    assert.deepEqual(await backend.dequantize(tensor), dequantizeInt8(codes, scales), name);
  }
  const folder = temporaryFolder(t);
  await saveModel(model, folder, { dtype: "float32" });
  using again = await loadModel({ path: folder, backend });
  const name = "model.layers.0.mlp.up_proj.weight";
  assert.deepEqual(
    await backend.dequantize(again.parameter(name)),
    await backend.dequantize(model.parameter(name)),
    "written as plain numbers",
  );
  await assert.rejects(loadModel({ path, backend, loadIn8bit: true, loadIn4bit: true }), /contradict each other/);
});

test("fullFinetuning keeps everything in float32", async (t) => {
  const path = familyModel("llama_bf16_sharded");
  using model = await loadModel({ path, backend: await testBackend(t), fullFinetuning: true });
  const expected = readTensors(path);
  for (const [name, tensor] of model.parameters) {
    assert.equal(tensor.dtype, "f32");
    assert.deepEqual(new Float32Array((await tensor.read()).buffer as ArrayBuffer), floats(expected.get(name)!), name);
  }
});

test("a bitsandbytes checkpoint is loaded byte for byte", async (t) => {
  const backend = await testBackend(t);
  for (const dtype of ["f32", "bf16"] as const) {
    const path = nf4Model(dtype);
    const expected = readTensors(path);
    using model = await loadModel({ path, backend, loadIn4bit: true });
    const linears = [...model.parameters].filter(([name]) => name.includes("_proj."));
    assert.equal(linears.length, 14);
    for (const [name, tensor] of linears) {
      assert.equal(tensor.dtype, "nf4");
      assert.deepEqual(tensor.quantization, { blockSize: 64, doubleQuant: true });
      assert.deepEqual(await tensor.read(), expected.get(name)!.data, name);
      for (const [part, suffix] of [
        ["absmax", "absmax"],
        ["nested", "nested_absmax"],
        ["map", "nested_quant_map"],
      ] as const) {
        assert.deepEqual(await tensor.read(part), expected.get(`${name}.${suffix}`)!.data, `${name}.${suffix}`);
      }
      const state = JSON.parse(Buffer.from(expected.get(`${name}.quant_state.bitsandbytes__nf4`)!.data).toString());
      assert.equal(tensor.nestedOffset, state.nested_offset);
    }
    assert.equal(model.parameter("model.embed_tokens.weight").dtype, dtype);
  }
});

test("loadIn4bit gives the bytes that bitsandbytes gives", async (t) => {
  const expected = readTensors(nf4Model("f32"));
  using model = await loadModel({ path: familyModel("llama3"), backend: await testBackend(t), loadIn4bit: true });
  for (const [name, tensor] of model.parameters) {
    assert.equal(tensor.dtype, name.includes("_proj.") ? "nf4" : "f32", name);
    assert.deepEqual(await tensor.read(), expected.get(name)!.data, name);
    if (tensor.dtype !== "nf4") continue;
    assert.deepEqual(await tensor.read("absmax"), expected.get(`${name}.absmax`)!.data, name);
    const nested = new Float32Array((await tensor.read("nested")).buffer as ArrayBuffer);
    const want = floats(expected.get(`${name}.nested_absmax`)!);
    nested.forEach((value, i) => assert.ok(Math.abs(value - want[i]!) <= 1e-6 * want[i]!, name));
  }
});

test("loadIn4bit without double quantisation, in blocks of another size", async (t) => {
  const quantization = { blockSize: 128, doubleQuant: false };
  const backend = await testBackend(t);
  using model = await loadModel({ path: familyModel("llama"), backend, loadIn4bit: true, quantization });
  const name = "model.layers.1.mlp.down_proj.weight";
  const tensor = model.parameter(name);
  assert.deepEqual(tensor.quantization, quantization);
  assert.equal(tensor.bytes, (32 * 88) / 2 + (4 * (32 * 88)) / 128);
  const want = floats(readTensors(familyModel("llama")).get(name)!);
  const got = await backend.dequantize(tensor);
  for (let block = 0; block < want.length; block += 128) {
    const values = want.subarray(block, block + 128);
    const absmax = values.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
    // Half of the widest gap between two codes.
    values.forEach((v, i) => assert.ok(Math.abs(got[block + i]! - v) <= absmax * 0.152));
  }
});

test("progress ends at all bytes of the parameters", async (t) => {
  const seen: LoadProgress[] = [];
  const onProgress = (progress: LoadProgress) => seen.push(progress);
  const path = familyModel("llama");
  using model = await loadModel({ path, backend: await testBackend(t), onProgress });
  const total = [...readTensors(path).values()].reduce((sum, { data }) => sum + data.byteLength, 0);
  assert.equal(seen.length, model.parameters.size);
  assert.deepEqual({ ...seen.at(-1), parameter: "" }, { parameter: "", done: total, total });
  assert.ok(seen.every(({ done }, i) => i === 0 || done > seen[i - 1]!.done));
});

test("weights are read in the order of their bytes, one shard after another", async (t) => {
  const path = familyModel("llama_bf16_sharded");
  const expected = [1, 2].flatMap((shard) => {
    using file = openSafetensors(join(path, `model-0000${shard}-of-00002.safetensors`));
    return [...file.tensors.values()].sort((a, b) => a.start - b.start).map(({ name }) => name);
  });
  const seen: string[] = [];
  const onProgress = ({ parameter }: LoadProgress) => seen.push(parameter);
  using _model = await loadModel({ path, backend: await testBackend(t), onProgress });
  assert.deepEqual(seen, expected);
});

test("a signal stops loading and nothing stays allocated", async (t) => {
  const backend = await testBackend(t);
  const controller = new AbortController();
  const onProgress = () => controller.abort(new Error("enough"));
  const { signal } = controller;
  await assert.rejects(loadModel({ path: familyModel("llama"), backend, onProgress, signal }), /^Error: enough$/);
  assert.equal(backend.memory().tensors.weight, 0);
});

test("names without the leading model. are accepted; buffers that follow from the configuration are not missed", async (t) => {
  const path = await changedModel(t, familyModel("llama"), {
    tensors: (tensors) => {
      for (const [name, tensor] of [...tensors]) {
        tensors.delete(name);
        const short = name.replace(/^model\./, "");
        tensors.set(short, { ...tensor, name: short });
      }
      const name = "layers.0.self_attn.rotary_emb.inv_freq";
      tensors.set(name, { name, dtype: "F32", shape: [4], data: new Uint8Array(16) });
    },
  });
  const backend = await testBackend(t);
  using model = await loadModel({ path, backend });
  assert.deepEqual(model.warnings, []);
  assert.ok(model.parameters.has("model.layers.0.mlp.up_proj.weight"));
});

test("tensors that the model has no place for are named in warnings; the copy of a tied head is not", async (t) => {
  const path = await changedModel(t, familyModel("qwen2"), {
    tensors: (tensors) => {
      const embedding = tensors.get("model.embed_tokens.weight")!;
      tensors.set("lm_head.weight", { ...embedding, name: "lm_head.weight" });
      // An integer tensor too: what is not needed need not be readable.
      tensors.set("extra", { name: "extra", dtype: "I64", shape: [1], data: new Uint8Array(8) });
    },
  });
  using model = await loadModel({ path, backend: await testBackend(t) });
  assert.equal(model.warnings.length, 1);
  assert.match(model.warnings[0]!, /ignored extra, which a qwen2 model lacks/);
  assert.ok(!model.parameters.has("lm_head.weight"));
});
