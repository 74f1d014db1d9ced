import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openSafetensors } from "../formats/safetensors.ts";
import { Graph } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { DecoderTrace } from "../models/decoder.ts";
import { saveModel } from "../models/save.ts";
import { relativeError } from "../testing/kernels.ts";
import { oracleFloats, oracleTensors } from "../testing/oracle.ts";
import { loadAdapter, saveAdapter } from "./adapter-files.ts";
import { attachLora } from "./attach.ts";
import { fromFloats, multiply } from "./linear-algebra/matrix.ts";
import { assertClose, logitsOf, oracleModel, scratchFolder, testBackend } from "./peft.test.support.ts";
import { PeftModel } from "./peft-model.ts";
import { readWeight, writeFloats } from "./weights.ts";

const OPTIONS = { r: 4, loraAlpha: 8, targetModules: ["q_proj", "down_proj"] };
const LOFTQ = (loftqIter: number) => ({ initLoraWeights: "loftq", loftqConfig: { loftqBits: 4, loftqIter } }) as const;
const CASES: Record<string, Record<string, unknown>> = {
  pissa: { initLoraWeights: "pissa" },
  pissa_dora: { initLoraWeights: "pissa", useDora: true, useRslora: true },
  olora: { initLoraWeights: "olora" },
  loftq_1: LOFTQ(1),
  loftq_4: LOFTQ(4),
};
const IDS = [1, 20, 7, 58, 82, 24, 14];

for (const [name, options] of Object.entries(CASES)) {
  test(`${name}: base weights, A and B are PEFT's, up to signs of singular vectors`, async (t) => {
    const backend = await testBackend(t);
    using model = await oracleModel(backend, "families/llama/model");
    const before = await logitsOf(model, IDS);
    using adapter = await attachLora(model, { ...OPTIONS, ...options });
    const expected = oracleTensors("peft_variants", "init", `${name}.safetensors`);
    for (const { path, shape, r } of adapter.targets) {
      const want = (part: string) => oracleFloats(expected, `${path}.${part}`);
      const pair = adapter.lora(path)!;
      const [a, b] = [await readWeight(backend, pair.a), await readWeight(backend, pair.b)];
      const base = await readWeight(backend, model.parameter(`${path}.weight`));
      assertClose(base, want("base"), 1e-5, `${path} base`);
      const product = (A: Float32Array, B: Float32Array) =>
        Float32Array.from(multiply(fromFloats(shape[0], r, B), fromFloats(r, shape[1], A)).data);
      assertClose(product(a, b), product(want("A"), want("B")), 1e-4, `${path} B·A`);
      for (let k = 0; k < r; k++) {
        const row = a.subarray(k * shape[1], (k + 1) * shape[1]);
        const theirs = want("A").subarray(k * shape[1], (k + 1) * shape[1]);
        const error = Math.min(
          relativeError(row, theirs),
          relativeError(
            row.map((value) => -value),
            theirs,
          ),
        );
        assert.ok(error < 1e-4, `${path} row ${k} of A: ${error}`);
        // OLoRA's signs are LAPACK's; those of singular vectors are anybody's.
        if (name === "olora") assert.ok(relativeError(row, theirs) < 1e-5);
      }
      if (pair.dora) assertClose(await readWeight(backend, pair.dora.magnitude), want("magnitude"), 1e-5, "magnitude");
    }
    const after = await logitsOf(model, IDS);
    if (name.startsWith("loftq")) {
      assert.ok(relativeError(after, before) > 1e-3);
      assert.equal(model.parameter("model.layers.0.self_attn.q_proj.weight").dtype, "nf4");
    } else assertClose(after, before, 1e-5, "the sum is the model as it was");
    assert.match(adapter.warnings.at(-1)!, /has changed the model's weights/);
  });
}

for (const init of ["pissa", "pissa_niter_6", "olora"] as const) {
  for (const more of [
    {},
    { useRslora: true, useDora: true },
    { rankPattern: { down_proj: 6 }, alphaPattern: { q_proj: 3 } },
  ]) {
    test(`${init} with ${JSON.stringify(more)}: what is saved goes onto the weights as they were`, async (t) => {
      const backend = await testBackend(t);
      using model = await oracleModel(backend, "families/qwen2/model");
      using adapter = await attachLora(model, { ...OPTIONS, ...more, initLoraWeights: init });
      // As if trained.
      for (const { tensor, kind } of adapter.tensors) {
        if (kind !== "A" && kind !== "B") continue;
        const values = await readWeight(backend, tensor);
        writeFloats(
          tensor,
          values.map((value, i) => value + 0.1 * Math.sin(i * 1.7)),
        );
      }
      const trained = await logitsOf(model, IDS);
      const folder = scratchFolder(t);
      await saveAdapter(adapter, folder);
      const config = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8"));
      assert.equal(config.init_lora_weights, true);
      assert.equal(config.r, 8);
      using fresh = await oracleModel(backend, "families/qwen2/model");
      using again = await loadAdapter(fresh, folder);
      assertClose(await logitsOf(fresh, IDS), trained, 2e-5);
      assert.equal(again.config.r, 8);
      // Merging what is in memory gives the same as well.
      model.adapter = null;
      using peft = new PeftModel(model, adapter);
      await peft.mergeAdapter();
      assertClose(await logitsOf(model, IDS), trained, 1e-5);
      peft.unmergeAdapter();
    });
  }
}

test("an adapter that PEFT saved with init_lora_weights pissa starts from the base weights when loaded", async (t) => {
  const backend = await testBackend(t);
  const folder = scratchFolder(t);
  using model = await oracleModel(backend, "families/qwen2/model");
  using plain = await attachLora(model, { ...OPTIONS, initLoraWeights: false });
  await saveAdapter(plain, folder);
  const file = join(folder, "adapter_config.json");
  const { writeFileSync } = await import("node:fs");
  const text = readFileSync(file, "utf8");
  writeFileSync(file, text.replace('"init_lora_weights": false', '"init_lora_weights": "pissa"'));
  plain.dispose();
  {
    using started = await attachLora(model, { ...OPTIONS, initLoraWeights: "pissa" });
    const residual = await readWeight(backend, model.parameter("model.layers.0.self_attn.q_proj.weight"));
    using fresh = await oracleModel(backend, "families/qwen2/model");
    using loaded = await loadAdapter(fresh, folder);
    assert.deepEqual(await readWeight(backend, fresh.parameter("model.layers.0.self_attn.q_proj.weight")), residual);
    using saved = openSafetensors(join(folder, "adapter_model.safetensors"));
    const { name, tensor } = loaded.tensors[0]!;
    const bytes = new Uint8Array(tensor.bytes);
    await saved.readInto(name, bytes);
    assert.deepEqual(await tensor.read(), bytes);
    started.dispose();
  }
  writeFileSync(file, text.replace('"init_lora_weights": false', '"init_lora_weights": "pissa_niter_4"'));
  using fresh = await oracleModel(backend, "families/qwen2/model");
  await assert.rejects(
    loadAdapter(fresh, folder),
    /init_lora_weights: found "pissa_niter_4"; expected .*no random draw/,
  );
});

test("LoftQ of a model loaded in 4 bits compares with the weights of its folder", async (t) => {
  const backend = await testBackend(t);
  const name = "model.layers.0.self_attn.q_proj";
  using full = await oracleModel(backend, "families/llama/model");
  const exact = await readWeight(backend, full.parameter(`${name}.weight`));
  for (const rounds of [1, 3]) {
    using model = await oracleModel(backend, "families/llama/model", { loadIn4bit: true });
    const quantised = model.parameter(`${name}.weight`);
    assert.equal(quantised.dtype, "nf4");
    const [first, before] = [await quantised.read(), relativeError(await readWeight(backend, quantised), exact)];
    using adapter = await attachLora(model, { ...OPTIONS, loraAlpha: 4, ...LOFTQ(rounds) });
    assert.equal(model.parameter(`${name}.weight`), quantised);
    // One round leaves the 4-bit weight as it is.
    assert.equal(Buffer.from(await quantised.read()).equals(first), rounds === 1);
    const { a, b } = adapter.lora(name)!;
    const update = multiply(
      fromFloats(32, 4, await readWeight(backend, b)),
      fromFloats(4, 32, await readWeight(backend, a)),
    );
    const sum = (await readWeight(backend, quantised)).map((value, i) => value + update.data[i]!);
    assert.ok(relativeError(sum, exact) < 0.9 * before, `${relativeError(sum, exact)}, before ${before}`);
  }
});

test("without an adapter that changed the weights the model is as it was loaded: disabled, and as a reference", async (t) => {
  const backend = await testBackend(t);
  const options = { ...OPTIONS, initLoraWeights: "pissa", useDora: true } as const;
  const model = await oracleModel(backend, "families/llama/model");
  const before = await logitsOf(model, IDS);
  using peft = new PeftModel(model, await attachLora(model, options));
  for (const { tensor } of peft.adapter.tensors) {
    const values = await readWeight(backend, tensor);
    writeFloats(
      tensor,
      values.map((value, i) => value + 0.1 * Math.cos(i)),
    );
  }
  assert.ok(relativeError(await logitsOf(model, IDS), before) > 0.01);
  assertClose(await peft.disableAdapter(() => logitsOf(model, IDS)), before, 1e-5);
  const graph = new Graph();
  const n = IDS.length;
  const input = (name: string) => graph.input(name, "i32", [n]);
  const tokens = { ids: input("ids"), positions: input("p"), seqStart: input("s"), seqEnd: input("e") };
  const trace = new DecoderTrace(graph, model, { maxPositions: 32, adapter: null });
  graph.output("logits", trace.logits(trace.hidden(tokens)));
  const executable = backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
  const { logits } = await executable.execute({
    ids: Int32Array.from(IDS),
    p: Int32Array.from(IDS, (_, i) => i),
    s: new Int32Array(n),
    e: new Int32Array(n).fill(n),
  });
  assertClose(logits!, before, 1e-5);
  executable.dispose();
});

test("what cannot start from a base weight is said before anything changes", async (t) => {
  const backend = await testBackend(t);
  using nf4 = await oracleModel(backend, "nf4/model_f32");
  using llama = await oracleModel(backend, "families/llama/model");
  using tied = await oracleModel(backend, "families/qwen2/model");
  const refused = (model: typeof nf4, options: Record<string, unknown>, message: RegExp) =>
    assert.rejects(attachLora(model, { ...OPTIONS, ...options }), message);
  await refused(
    nf4,
    { initLoraWeights: "pissa" },
    /"pissa": model.layers.0.self_attn.q_proj is in 4 bits: load the model with/,
  );
  await refused(
    nf4,
    LOFTQ(1),
    /"loftq" compares 4-bit weights with those they were made from, and .*nf4.model_f32 has model.layers.0.self_attn.q_proj.weight as U8/,
  );
  await refused(
    llama,
    { initLoraWeights: "olora", r: 64 },
    /rank 64 is more than model.layers.0.self_attn.q_proj's weight/,
  );
  await refused(
    tied,
    { initLoraWeights: "pissa", targetModules: ["q_proj", "lm_head"] },
    /lm_head is the table of model.embed_tokens/,
  );
  await refused(llama, { initLoraWeights: "orthogonal", r: 3 }, /"orthogonal" needs even ranks; .* has 3/);
  using peft = new PeftModel(llama, await attachLora(llama, OPTIONS));
  await assert.rejects(
    peft.addAdapter("second", { ...OPTIONS, initLoraWeights: "pissa" }),
    /would change the weights under the model's other adapters/,
  );
  assert.equal(backend.memory().tensors.constant, 0);
});

test("OLoRA of 4-bit weights quantises what is left again, as PEFT", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "nf4/model_f32");
  const before = await logitsOf(model, IDS);
  using adapter = await attachLora(model, { ...OPTIONS, initLoraWeights: "olora" });
  assert.equal(model.parameter("model.layers.0.self_attn.q_proj.weight").dtype, "nf4");
  const error = relativeError(await logitsOf(model, IDS), before);
  assert.ok(error > 1e-4 && error < 0.3, `${error}`);
  const folder = scratchFolder(t);
  await saveModel(model, folder);
  assert.ok(adapter.start!.size > 0);
});

test("orthogonal: both halves random, their product zero, the same from the same seed", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/llama/model");
  const before = await logitsOf(model, IDS);
  using adapter = await attachLora(model, { ...OPTIONS, initLoraWeights: "orthogonal" });
  assertClose(await logitsOf(model, IDS), before, 1e-5);
  const values: Float32Array[] = [];
  for (const { tensor } of adapter.tensors) values.push(await readWeight(backend, tensor));
  assert.ok(values.every((one) => one.some((value) => value !== 0)));
  const deviation = Math.sqrt(values[0]!.reduce((sum, v) => sum + v * v, 0) / values[0]!.length);
  // Rows of a rotation, times N(0, 1), over 10: variance (r/2)/r/100.
  assert.ok(Math.abs(deviation / Math.sqrt(0.005) - 1) < 0.25, `${deviation}`);
  adapter.dispose();
  using again = await attachLora(model, { ...OPTIONS, initLoraWeights: "orthogonal" });
  for (const [i, { tensor }] of again.tensors.entries()) assert.deepEqual(await readWeight(backend, tensor), values[i]);
});
