import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parseConfig } from "../models/family.ts";
import { loraConfig } from "./lora-config.ts";
import { modelModules } from "./modules.ts";
import { explicitTargets, resolveTargets } from "./targets.ts";

const fixtures = new URL("../../tests/fixtures/", import.meta.url);
const readJson = (path: string): unknown => JSON.parse(readFileSync(new URL(path, fixtures), "utf8"));
const modulesOf = (model: string) => {
  const file = `oracle/families/${model}/model/config.json`;
  return modelModules(parseConfig(readJson(file), file).decoder);
};

interface Case {
  model: string;
  config: Record<string, unknown>;
  error?: string;
  targets: Record<string, [r: number, scale: number]>;
  saved: string[];
}

test("modules, ranks and scales are those PEFT chooses", () => {
  const { cases } = readJson("peft/targets.json") as { cases: Case[] };
  assert.ok(cases.length > 40);
  for (const { model, config, error, targets, saved } of cases) {
    const resolve = () =>
      resolveTargets(modulesOf(model), loraConfig({ r: 4, ...config }), { strict: false, owner: "LoraConfig" });
    const label = JSON.stringify({ model, config });
    if (error) {
      assert.throws(resolve, { name: "OptionError" }, label);
      continue;
    }
    const found = resolve();
    const summary = Object.fromEntries(found.targets.map(({ path, r, scale }) => [path, [r, scale]]));
    assert.deepEqual(summary, targets, label);
    assert.deepEqual(found.saved.map(({ path }) => path).sort(), [...saved].sort(), label);
  }
});

const strictly = (model: string, config: Record<string, unknown>) =>
  resolveTargets(modulesOf(model), loraConfig(config), { strict: true, owner: "LoraConfig" });

test("what matches nothing is an error that lists what there is", () => {
  const list = /embed_tokens, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head/;
  assert.throws(
    () => strictly("llama", { targetModules: ["q_proj", "v_prj"] }),
    /no module "v_prj"; did you mean "v_proj"\?/,
  );
  assert.throws(() => strictly("llama", { targetModules: ["query_key_value"] }), list);
  assert.throws(() => strictly("llama3", { targetModules: "q_proj" }), list);
  assert.throws(
    () => strictly("llama", { targetModules: ["q_proj"], modulesToSave: ["lm_haed"] }),
    /modulesToSave: no module ends with "lm_haed"; did you mean "lm_head"\?/,
  );
  assert.throws(
    () => strictly("llama", { targetModules: ["q_proj"], layersToTransform: [9] }),
    /targetModules \["q_proj"\], layersToTransform \[9\] leaves no module to train/,
  );
  assert.throws(
    () => strictly("llama", { targetModules: ["q_proj"], rankPattern: { v_proj: 2 } }),
    /rankPattern: "v_proj" matches no targeted module/,
  );
});

test("a module that no update can be put on is named", () => {
  assert.throws(
    () => strictly("llama", { targetModules: ".*mlp.*" }),
    /takes model.layers.0.mlp, which is neither a linear module nor an embedding/,
  );
});

test("a module cannot have an update and be trained in full by an accident of spelling", () => {
  assert.throws(
    () => strictly("llama", { targetModules: ["q_proj"], modulesToSave: ["proj"] }),
    /q_proj cannot both have an update and be trained in full/,
  );
});

test("defaults and shorthand are written out for files", () => {
  assert.deepEqual(explicitTargets(loraConfig()), ["q_proj", "v_proj"]);
  assert.equal(explicitTargets(loraConfig({ targetModules: "All-Linear" })).length, 7);
  assert.equal(explicitTargets(loraConfig({ targetModules: ".*q_proj" })), ".*q_proj");
});
