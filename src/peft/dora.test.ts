import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Optimizer } from "../optim/optimizer.ts";
import { relativeError } from "../testing/kernels.ts";
import { oracleFloats, oracleJson, oraclePath, oracleTensors } from "../testing/oracle.ts";
import { type OracleBatch, oracleBatch } from "../testing/oracle-batch.ts";
import { StepRunner } from "../train/step.ts";
import { loadAdapter, saveAdapter } from "./adapter-files.ts";
import { attachLora } from "./attach.ts";
import { squaredLengths } from "./dora.ts";
import { assertClose, logitsOf, oracleModel, scratchFolder, testBackend } from "./peft.test.support.ts";
import { PeftModel } from "./peft-model.ts";
import { readWeight, writeFloats } from "./weights.ts";

interface Expectation {
  readonly base_model: string;
  readonly batch: OracleBatch;
  readonly loss: number;
  readonly target_tokens: number;
}

const CASES = ["dora_llama", "dora_qwen2", "dora_nf4", "dora_embedding", "dora_embedding_scaled"];
const OPTIMIZER = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
const where = (name: string): string[] => ["peft_variants", name];

for (const name of CASES) {
  test(`${name}: logits, loss and every gradient equal PEFT's`, async (t) => {
    const backend = await testBackend(t);
    backend.poison = true;
    const expected = oracleJson<Expectation>(...where(name), "expect.json");
    const tensors = oracleTensors(...where(name), "expect.safetensors");
    using model = await oracleModel(backend, expected.base_model);
    using adapter = await loadAdapter(model, oraclePath(...where(name), "adapter"), { isTrainable: true });
    for (const [i, ids] of expected.batch.input_ids.entries()) {
      assertClose(await logitsOf(model, ids), oracleFloats(tensors, `lora_logits.${i}`), 1e-5, `logits ${i}`);
    }
    const optimizer = new Optimizer(backend, adapter.trainable(), OPTIMIZER);
    for (const kind of ["keep", "recompute"] as const) {
      const runner = new StepRunner({ model, optimizer, policy: { kind }, maxPositions: 32 });
      const { loss } = await runner.train(oracleBatch(expected.batch), 1 / expected.target_tokens, new Uint32Array(2));
      assert.ok(Math.abs(loss / expected.loss - 1) <= 1e-5, `loss ${loss}, expected ${expected.loss}`);
      let worst = 0;
      for (const trainable of optimizer.trainables) {
        const buffer = optimizer.gradient(trainable);
        const gradient = new Float32Array((await buffer.read()).buffer as ArrayBuffer);
        const error = relativeError(gradient, oracleFloats(tensors, `grad.${trainable.name}`));
        assert.ok(error <= 1e-4, `${trainable.name}: relative error ${error}`);
        worst = Math.max(worst, error);
        buffer.write(new Uint8Array(buffer.bytes));
      }
      t.diagnostic(`largest relative error of a gradient: ${worst.toExponential(1)}`);
      runner.dispose();
    }
    optimizer.dispose();
  });

  test(`${name}: a new adapter's magnitudes are PEFT's, and files are written back byte for byte`, async (t) => {
    const backend = await testBackend(t);
    const expected = oracleJson<Expectation>(...where(name), "expect.json");
    const first = oracleTensors(...where(name), "init", "adapter_model.safetensors");
    using model = await oracleModel(backend, expected.base_model);
    {
      using loaded = await loadAdapter(model, oraclePath(...where(name), "adapter"));
      const folder = scratchFolder(t);
      await saveAdapter(loaded, folder);
      for (const file of ["adapter_model.safetensors", "adapter_config.json"]) {
        const written = readFileSync(join(folder, file));
        assert.ok(written.equals(readFileSync(oraclePath(...where(name), "adapter", file))), file);
      }
      const { r, loraAlpha, targetModules, bias, useRslora } = loaded.config;
      loaded.dispose();
      using adapter = await attachLora(model, { r, loraAlpha, targetModules, bias, useRslora, useDora: true });
      const magnitudes = adapter.tensors.filter(({ kind }) => kind === "magnitude");
      assert.equal(magnitudes.length, adapter.targets.length);
      for (const { name: key, tensor } of magnitudes) {
        assertClose(await readWeight(backend, tensor), oracleFloats(first, key), 1e-6, key);
      }
    }
    assert.equal(backend.memory().tensors.adapter, 0);
  });

  test(`${name}: merging gives the adapter's logits, unmerging the old bytes`, async (t) => {
    const backend = await testBackend(t);
    const expected = oracleJson<Expectation>(...where(name), "expect.json");
    using peft = await PeftModel.fromPretrained(
      await oracleModel(backend, expected.base_model),
      oraclePath(...where(name), "adapter"),
    );
    const ids = expected.batch.input_ids[0]!;
    const tensors = oracleTensors(...where(name), "expect.safetensors");
    const before = await peft.disableAdapter(() => logitsOf(peft.model, ids));
    await peft.mergeAdapter({ dtype: "f32" });
    assertClose(await logitsOf(peft.model, ids), oracleFloats(tensors, "lora_logits.0"), 1e-5);
    peft.unmergeAdapter();
    assertClose(await logitsOf(peft.model, ids), oracleFloats(tensors, "lora_logits.0"), 1e-5);
    assert.deepEqual(await peft.disableAdapter(() => logitsOf(peft.model, ids)), before);
  });
}

test("a new adapter leaves the model's logits as they are, also where B is not zero at first", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/qwen2/model");
  const ids = [1, 20, 7, 58, 82];
  const base = await logitsOf(model, ids);
  for (const initLoraWeights of [true, "gaussian"] as const) {
    using _ = await attachLora(model, { useDora: true, targetModules: "all-linear", initLoraWeights });
    assertClose(await logitsOf(model, ids), base, 1e-5);
  }
  using random = await attachLora(model, { useDora: true, targetModules: ["q_proj"], initLoraWeights: false, r: 2 });
  const pair = random.lora("model.layers.0.self_attn.q_proj")!;
  const [a, b] = [await readWeight(backend, pair.a), await readWeight(backend, pair.b)];
  const w = await readWeight(backend, model.parameter("model.layers.0.self_attn.q_proj.weight"));
  const magnitude = await readWeight(backend, pair.dora!.magnitude);
  for (const row of [0, 7, 39]) {
    let square = 0;
    for (let col = 0; col < 40; col++) {
      let value = w[row * 40 + col]!;
      for (let k = 0; k < 2; k++) value += pair.scale * b[row * 2 + k]! * a[k * 40 + col]!;
      square += value * value;
    }
    assert.ok(Math.abs(magnitude[row]! / Math.sqrt(square) - 1) < 1e-6);
  }
});

test("weights in 8 bits and in 4: loaded for use or for training, an adapter gives the same logits", async (t) => {
  const backend = await testBackend(t);
  const ids = [1, 20, 7, 58, 82];
  const folder = oraclePath(...where("dora_llama"), "adapter");
  for (const options of [{ loadIn8bit: true }, { loadIn4bit: true }]) {
    using model = await oracleModel(backend, "families/llama/model", options);
    assert.ok(model.parameter("model.layers.0.self_attn.q_proj.weight").quantization);
    const base = await logitsOf(model, ids);
    const all: Float32Array[] = [];
    for (const isTrainable of [true, false]) {
      using adapter = await loadAdapter(model, folder, { isTrainable });
      const [path] = adapter.targets.map((target) => target.path);
      assert.equal("factors" in adapter.lora(path!)!.dora!, !isTrainable);
      all.push(await logitsOf(model, ids));
    }
    assertClose(all[1]!, all[0]!, 1e-5);
    assert.ok(relativeError(all[0]!, base) > 0.1);
  }
});

test("with dropout, what is dropped is dropped from the whole direction, as in PEFT", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/llama/model");
  const options = { targetModules: ["q_proj"], useDora: true, r: 2 };
  using adapter = await attachLora(model, { ...options, loraDropout: 0.5 });
  // Magnitudes as they are: c = 1 where B = 0, and then the base's product has no dropout in it.
  const optimizer = new Optimizer(backend, adapter.trainable(), OPTIMIZER);
  const runner = new StepRunner({ model, optimizer, policy: { kind: "keep" }, maxPositions: 32 });
  const ids = [1, 5, 9, 33, 21, 8];
  const batch = oracleBatch({ input_ids: [ids], labels: [ids] });
  const loss = async (seed: number) => (await runner.train(batch, 1, Uint32Array.of(seed, 0))).loss;
  const still = (await runner.evaluate(batch, 1)).loss;
  assert.ok(Math.abs((await loss(1)) / still - 1) < 1e-5);
  const { magnitude } = adapter.lora("model.layers.0.self_attn.q_proj")!.dora!;
  writeFloats(
    magnitude,
    (await readWeight(backend, magnitude)).map((value) => 2 * value),
  );
  const [first, second] = [await loss(1), await loss(2)];
  assert.ok(Math.abs(first - second) > 1e-4, "another mask, another loss");
  assert.equal(await loss(1), first);
  runner.dispose();
  optimizer.dispose();
});

test("lengths are of rows, for embeddings of columns", () => {
  const numbers = Float32Array.of(1, 2, 3, 4, 5, 6);
  const read = (at: number, count: number) => numbers.subarray(at, at + count);
  assert.deepEqual([...squaredLengths({ kind: "linear", shape: [2, 3] }, read)], [14, 77]);
  assert.deepEqual([...squaredLengths({ kind: "embedding", shape: [2, 3] }, read)], [17, 29, 45]);
});
