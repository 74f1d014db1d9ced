import assert from "node:assert/strict";
import { test } from "node:test";
import { loraConfig } from "./lora-config.ts";

test("defaults are PEFT's", () => {
  assert.deepEqual(loraConfig(), {
    r: 8,
    targetModules: null,
    excludeModules: null,
    loraAlpha: 8,
    loraDropout: 0,
    bias: "none",
    useRslora: false,
    layersToTransform: null,
    layersPattern: null,
    modulesToSave: null,
    trainableTokenIndices: null,
    rankPattern: {},
    alphaPattern: {},
    initLoraWeights: true,
    loftqConfig: null,
    useDora: false,
    randomState: 3407,
    ensureWeightTying: false,
    taskType: "CAUSAL_LM",
    inferenceMode: false,
  });
});

test("PEFT's snake_case is accepted", () => {
  const config = loraConfig({ lora_alpha: 32, target_modules: ["q_proj"], use_rslora: true, task_type: "CAUSAL_LM" });
  assert.equal(config.loraAlpha, 32);
  assert.deepEqual(config.targetModules, ["q_proj"]);
  assert.equal(config.useRslora, true);
});

test("an unknown option names the nearest right one", () => {
  assert.throws(
    () => loraConfig({ lora_alfa: 16 }),
    /LoraConfig: unknown option "lora_alfa"; did you mean "loraAlpha"\?/,
  );
  assert.throws(() => loraConfig({ targetModule: ["q_proj"] }), /did you mean "targetModules"\?/);
});

test("what is out of range is said with what would work", () => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ r: 0 }, /LoraConfig: r: expected a rank of at least 1, found 0/],
    [{ r: 2.5 }, /r: .*found 2.5/],
    [{ loraDropout: 1 }, /loraDropout: expected a share from 0 to below 1, found 1/],
    [{ loraDropout: -0.1 }, /loraDropout/],
    [{ bias: "some" }, /bias: expected "none", "all" or "lora_only", found "some"/],
    [
      { targetModules: 3 },
      /targetModules: expected a list of module names, a regular expression, or "all-linear", found 3/,
    ],
    [{ targetModules: [] }, /targetModules/],
    [{ modulesToSave: "lm_head" }, /modulesToSave/],
    [{ modulesToSave: new Array(10_001).fill("x") }, /modulesToSave: expected at most 10000 names/],
    [{ rankPattern: { q_proj: 0 } }, /rankPattern.q_proj: expected a rank of at least 1, found 0/],
    [{ layersToTransform: -1 }, /layersToTransform: expected a layer's index, from 0, found -1/],
    [{ taskType: "TOKEN_CLS" }, /taskType: only "CAUSAL_LM" and "SEQ_CLS" are supported, found "TOKEN_CLS"/],
    [{ randomState: -1 }, /randomState/],
    [{ loraAlpha: Number.NaN }, /loraAlpha/],
  ];
  for (const [options, message] of cases) assert.throws(() => loraConfig(options), message);
});

test("initialisations that PEFT has and we have not are told from typing errors", () => {
  assert.equal(loraConfig({ initLoraWeights: "gaussian" }).initLoraWeights, "gaussian");
  assert.equal(loraConfig({ init_lora_weights: "PiSSA_niter_16" }).initLoraWeights, "pissa_niter_16");
  assert.throws(
    () => loraConfig({ initLoraWeights: "eva" }),
    /initLoraWeights: this initialisation is not supported yet; supported are true, false, "gaussian"/,
  );
  assert.throws(
    () => loraConfig({ initLoraWeights: "gausian" }),
    /unknown initialisation; .*did you mean "gaussian"\?/,
  );
});

test("options of PEFT that are not supported are refused only when they would change something", () => {
  assert.doesNotThrow(() =>
    loraConfig({ useDora: false, loftqConfig: {}, lora_bias: false, layer_replication: null, fan_in_fan_out: false }),
  );
  assert.throws(
    () => loraConfig({ useQalora: true }),
    /LoraConfig: useQalora: QALoRA is not supported yet; leave it out or set it to false/,
  );
  assert.throws(() => loraConfig({ lora_bias: true }), /a bias on B is not supported yet/);
});

test("LoftQ's settings go with its initialisation, in either spelling", () => {
  const config = loraConfig({ init_lora_weights: "loftq", loftq_config: { loftq_bits: 4, loftq_iter: 5 } });
  assert.deepEqual(config.loftqConfig, { loftqBits: 4, loftqIter: 5 });
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ initLoraWeights: "loftq" }, /initLoraWeights "loftq" needs loftqConfig, e.g. \{ loftqBits: 4, loftqIter: 1 \}/],
    [{ loftqConfig: { loftqBits: 4 } }, /loftqConfig goes with initLoraWeights "loftq" only/],
    [{ initLoraWeights: "loftq", loftqConfig: { loftqBits: 8 } }, /loftqConfig.loftqBits: only 4 bits \(NF4\)/],
    [
      { initLoraWeights: "loftq", loftqConfig: { loftqIter: 0 } },
      /loftqIter: expected a number of rounds of at least 1/,
    ],
  ];
  for (const [options, message] of cases) assert.throws(() => loraConfig(options), message);
});

test("layers cannot be combined with a regular expression", () => {
  assert.throws(
    () => loraConfig({ targetModules: ".*q_proj", layersToTransform: [0] }),
    /layersToTransform needs targetModules to be a list of names/,
  );
  assert.throws(
    () => loraConfig({ targetModules: ["q_proj"], layersPattern: "layers" }),
    /layersPattern needs layersToTransform/,
  );
  assert.doesNotThrow(() => loraConfig({ targetModules: "all-linear", layersToTransform: [0] }));
});
