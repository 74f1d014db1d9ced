import assert from "node:assert/strict";
import { test } from "node:test";
import { OptionError } from "../util/options.ts";
import { adaLoraConfig, splitAdaLora } from "./adalora-config.ts";
import { createLora } from "./attach.ts";
import { getPeftModel } from "./get-peft-model.ts";
import { oracleModel, testBackend } from "./peft.test.support.ts";

test("defaults are PEFT's", () => {
  const { targetR, initR, tinit, tfinal, deltaT, beta1, beta2, orthRegWeight, totalStep, rankPattern, loraAlpha } =
    adaLoraConfig();
  assert.deepEqual([targetR, initR, tinit, tfinal, deltaT, beta1, beta2], [8, 12, 0, 0, 1, 0.85, 0.85]);
  assert.deepEqual([orthRegWeight, totalStep, rankPattern, loraAlpha], [0.5, null, null, 8]);
});

test("PEFT's spellings are accepted", () => {
  const config = adaLoraConfig({
    peft_type: "ADALORA",
    target_r: 4,
    init_r: 6,
    deltaT: 10,
    orth_reg_weight: 0.1,
    total_step: 100,
    lora_alpha: 32,
    use_dora: false,
    loftq_config: {},
    alpha_pattern: {},
  });
  assert.deepEqual([config.targetR, config.initR, config.deltaT, config.totalStep], [4, 6, 10, 100]);
});

test("what cannot be is said with what would work", () => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ targetR: 0 }, /AdaLoraConfig: targetR: expected a rank of at least 1, found 0/],
    [{ targetR: 9, initR: 8 }, /targetR 9 is above initR 8/],
    [{ beta1: 1 }, /beta1: expected a number between 0 and 1, found 1/],
    [{ beta2: 0 }, /beta2/],
    [{ orthRegWeight: -1 }, /orthRegWeight: expected a number that is not negative, found -1/],
    [{ totalStep: 0 }, /totalStep: expected a number of steps of at least 1/],
    [{ totalStep: 10, tinit: 5, tfinal: 5 }, /tinit 5 and tfinal 5 leave no step of 10 to allocate ranks in/],
    [{ deltaT: 0 }, /deltaT/],
    [{ useDora: true }, /AdaLoRA does not support useDora/],
    [{ loftq_config: { loftq_bits: 4 } }, /AdaLoRA does not support loftq_config/],
    [{ useRslora: true }, /AdaLoRA does not support useRslora/],
    [{ initLoraWeights: "pissa" }, /AdaLoRA has its own initialisation/],
    [{ targetRank: 4 }, /unknown option "targetRank"; did you mean "targetR"\?/],
    [{ targetModules: ".*q_proj", layersToTransform: [0] }, /layersToTransform needs targetModules to be a list/],
  ];
  for (const [options, message] of cases) {
    const make = () => splitAdaLora(adaLoraConfig(options), "AdaLoraConfig");
    assert.throws(make, (error) => error instanceof OptionError && message.test(error.message));
  }
});

test("getPeftModel puts AdaLoRA on a model that is as it was: E is zero, A and B are small and random", async (t) => {
  const backend = await testBackend(t);
  using peft = await getPeftModel(await oracleModel(backend, "families/llama/model"), {
    peftType: "ADALORA",
    initR: 6,
    targetR: 3,
    r: 16,
    target_modules: ["q_proj", "v_proj"],
  } as Record<string, unknown>);
  const { adapter } = peft;
  assert.equal(adapter.adalora!.settings.initR, 6);
  assert.match(adapter.warnings[0]!, /AdaLoRA does not use r/);
  assert.equal(adapter.config.loraAlpha, 16);
  assert.ok(adapter.targets.every(({ r, scale }) => r === 6 && Math.abs(scale - 16 / (6 + 1e-5)) < 1e-12));
  const values = async (kind: string) => {
    const all = adapter.tensors.filter((tensor) => tensor.kind === kind);
    const floats = await Promise.all(all.map(async ({ tensor }) => new Float32Array((await tensor.read()).buffer)));
    return floats.flatMap((one) => [...one]);
  };
  assert.ok((await values("E")).every((e) => e === 0));
  for (const kind of ["A", "B"]) {
    const all = await values(kind);
    const deviation = Math.sqrt(all.reduce((sum, v) => sum + v * v, 0) / all.length);
    assert.ok(Math.abs(deviation / 0.02 - 1) < 0.15, `${kind}: ${deviation}`);
  }
  // PEFT counts a rank a module.
  const { trainable, all } = peft.parameterCount();
  const base = [...peft.model.parameters.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b), 0);
  assert.equal(all, base + trainable + 4);
});

test("embeddings are trained in full by getPeftModel, and refused as targets", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/llama/model");
  await assert.rejects(
    createLora(model, { peftType: "ADALORA", targetModules: ["embed_tokens"] }),
    /AdaLoRA updates linear modules only: leave model.embed_tokens out/,
  );
  using peft = await getPeftModel(model, { peftType: "ADALORA", targetModules: ["q_proj", "embed_tokens"] });
  assert.deepEqual(peft.adapter.config.modulesToSave, ["embed_tokens"]);
});
