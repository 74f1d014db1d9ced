/** Option by option: what TRL's configurations have is taken here with TRL's default, or refused for a reason. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { oracleJson } from "../testing/oracle.ts";
import { camelCase } from "../util/options.ts";
import { CPOConfig, DPOConfig, KTOConfig, ORPOConfig } from "./preference/index.ts";
import { RewardConfig } from "./reward/index.ts";
import { GRPOConfig, PPOConfig } from "./rl/index.ts";

type Defaults = Readonly<Record<string, unknown>>;
const theirs = oracleJson<Readonly<Record<string, Defaults>>>("trl_options.json");

const CONFIGS: Readonly<Record<string, new (options: Defaults) => object>> = {
  GRPOConfig,
  PPOConfig,
  DPOConfig,
  KTOConfig,
  CPOConfig,
  ORPOConfig,
  RewardConfig,
};

/** Defaults that mean the same and are written otherwise here, or follow from other settings. */
const OTHERWISE: Readonly<Record<string, unknown>> = {
  "GRPOConfig.epsilonHigh": 0.2,
  "GRPOConfig.stepsPerGeneration": 1,
  "GRPOConfig.generationBatchSize": 8,
  "GRPOConfig.chatTemplateKwargs": {},
  "PPOConfig.batchSize": 8,
  "PPOConfig.miniBatchSize": 8,
  "DPOConfig.lossType": "sigmoid",
};

for (const [name, Config] of Object.entries(CONFIGS)) {
  test(`${name}: every option of TRL's, at its default, is taken and is the default here`, () => {
    const options = Object.entries(theirs[name]!).map(([key, value]) => [camelCase(key), value] as const);
    assert.ok(options.length >= 10);
    const plain = new Config({}) as Readonly<Record<string, unknown>>;
    for (const [key, value] of options) {
      new Config({ [key]: value });
      const known = `${name}.${key}`;
      if (key in plain) assert.deepEqual(plain[key], known in OTHERWISE ? OTHERWISE[known] : value, known);
    }
  });
}

/** Of TRL's options that would do something: those that cannot be had. */
const REFUSED: Readonly<Record<string, Defaults>> = {
  GRPOConfig: {
    useVllm: true,
    syncRefModel: true,
    routerAuxLossCoef: 0.1,
    modelInitKwargs: {},
    generationKwargs: { topK: 1 },
    maxToolCallingIterations: 3,
    logCompletionsHubRepo: "name/repository",
  },
  PPOConfig: { modelInitKwargs: {} },
  DPOConfig: { syncRefModel: true, routerAuxLossCoef: 0.1, modelInitKwargs: {}, padToken: "x" },
  KTOConfig: { syncRefModel: true, routerAuxLossCoef: 0.1, modelInitKwargs: {} },
  CPOConfig: { generateDuringEval: true, isEncoderDecoder: true, modelInitKwargs: {} },
  ORPOConfig: { generateDuringEval: true, isEncoderDecoder: true, modelInitKwargs: {} },
  RewardConfig: { chatTemplatePath: "x", eosToken: "x", padToken: "x", modelInitKwargs: {} },
};

test("what cannot be had is refused with the reason and what to do", () => {
  for (const [name, options] of Object.entries(REFUSED)) {
    for (const [key, value] of Object.entries(options)) {
      assert.throws(
        () => new CONFIGS[name]!({ [key]: value }),
        {
          name: "OptionError",
          message: new RegExp(`^${name.replace("Config", "")}\\w+: ${key} .* cannot be had: ..........`),
        },
        `${name}.${key}`,
      );
    }
  }
});
