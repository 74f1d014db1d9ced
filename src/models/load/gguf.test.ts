import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fixtures } from "../../formats/files.test.support.ts";
import { numel } from "../../graph/types.ts";
import { FAMILY_FIXTURES, familyModel, testBackend } from "./checkpoint.test.support.ts";
import { openFolder } from "./folder.ts";
import { openGgufModel } from "./gguf.ts";
import { loadModel } from "./load.ts";
import type { SourceWeight } from "./source.ts";

const gguf = (name: string) => join(fixtures("oracle"), "gguf_models", `${name}.gguf`);

/** All numbers of a weight, asked for `step` at a time. */
function values(weight: SourceWeight, step = Number.POSITIVE_INFINITY): Float32Array {
  assert.ok(weight.kind === "dense" && weight.dtype === "f32");
  const all = new Float32Array(numel(weight.shape));
  for (let at = 0; at < all.length; at += step) {
    const piece = all.subarray(at, Math.min(at + step, all.length));
    weight.read(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength), 4 * at);
  }
  return all;
}

for (const family of FAMILY_FIXTURES) {
  test(`${family}: a GGUF file of gguf-py is the same model as the folder it was made from`, () => {
    using converted = openGgufModel(gguf(`${family}-f32`));
    using original = openFolder(familyModel(family));
    const { attentionScale, ...rest } = converted.decoder;
    const { attentionScale: expectedScale, ...expected } = original.decoder;
    assert.deepEqual(rest, expected);
    // Gemma 2's went through an f32.
    assert.ok(Math.abs(attentionScale - expectedScale) < 1e-7);
    assert.deepEqual([...converted.weights.keys()].sort(), [...original.weights.keys()].sort());
    for (const [name, weight] of converted.weights) {
      const want = values(original.weights.get(name)!);
      // In pieces that start and end within rows.
      for (const step of [Number.POSITIVE_INFINITY, 7]) {
        const got = values(weight, step);
        if (family !== "gemma2" || !name.endsWith("norm.weight")) assert.deepEqual(got, want, name);
        // 1 + w was rounded to f32.
        else got.forEach((v, i) => assert.ok(Math.abs(v - want[i]!) <= 2 ** -23, name));
      }
    }
    for (const id of ["bos_token_id", "eos_token_id", "pad_token_id", "hidden_size", "architectures"]) {
      assert.deepEqual(converted.hfConfig[id], original.hfConfig[id], id);
    }
  });
}

test("block-quantised weights are decoded, then their rows put in order", async (t) => {
  const backend = await testBackend(t);
  const path = gguf("llama-q8_0");
  using exact = await loadModel({ path, backend, dtype: "float32" });
  using standard = await loadModel({ path, backend });
  using original = openFolder(familyModel("llama"));
  for (const [name, tensor] of exact.parameters) {
    assert.equal(tensor.dtype, "f32");
    const got = new Float32Array((await tensor.read()).buffer as ArrayBuffer);
    const want = values(original.weights.get(name)!);
    const quantised = name.includes("_proj") && !name.includes("down_proj");
    for (let block = 0; block < want.length; block += 32) {
      const part = want.subarray(block, block + 32);
      // Q8_0: half a step of absmax/127, and the f16 rounding of the step times 127.
      const scale = part.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
      const bound = quantised || /embed|lm_head/.test(name) ? scale * (0.5 / 127 + 2 ** -11) : 0;
      part.forEach((v, i) => assert.ok(Math.abs(got[block + i]! - v) <= bound, `${name}[${block + i}]`));
    }
    const kept = standard.parameter(name);
    // Rows of 88 do not fill blocks of 32: the file has down_proj in f32, and so have we.
    const storage = tensor.shape.length === 1 || name.includes("down_proj") ? "f32" : "bf16";
    assert.equal(kept.dtype, storage, name);
  }
});

test("a GGUF file can be loaded in 4 bits", async (t) => {
  const backend = await testBackend(t);
  using fromGguf = await loadModel({ path: gguf("llama3-f32"), backend, loadIn4bit: true });
  using fromFolder = await loadModel({ path: familyModel("llama3"), backend, loadIn4bit: true });
  for (const [name, tensor] of fromFolder.parameters) {
    assert.deepEqual(await fromGguf.parameter(name).read(), await tensor.read(), name);
  }
  assert.equal(fromGguf.parameter("model.layers.0.self_attn.q_proj.weight").dtype, "nf4");
});
