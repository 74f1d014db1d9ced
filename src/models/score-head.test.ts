import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openCpuBackend } from "../backends/cpu/backend.ts";
import { Graph } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { getPeftModel, PeftModel } from "../peft/index.ts";
import { randomFloats } from "../testing/kernels.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { DecoderTrace } from "./decoder.ts";
import { loadModel } from "./load/load.ts";
import { saveModel } from "./save.ts";
import { addScoreHead, asSequenceClassifier, SCORE_WEIGHT } from "./score-head.ts";

const backend = await openCpuBackend({ threads: 2 });
const folder = mkdtempSync(join(tmpdir(), "unsloth-score-"));
after(() => rmSync(folder, { recursive: true, force: true }));

async function scoresOf(model: ReturnType<typeof tinyModel>, hidden: Float32Array): Promise<Float32Array> {
  const graph = new Graph();
  const h = graph.input("h", "f32", [hidden.length / 24, 24]);
  graph.output("scores", new DecoderTrace(graph, model, { maxPositions: 8 }).scores(h));
  const executable = backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
  try {
    return (await executable.execute({ h: hidden })).scores!;
  } finally {
    executable.dispose();
  }
}

test("a score head is drawn from its seed, once, and scores hidden states", async () => {
  const model = tinyModel(backend);
  addScoreHead(model, { seed: 7 });
  const weight = new Float32Array((await model.parameter(SCORE_WEIGHT).read()).buffer.slice(0));
  const deviation = Math.sqrt(weight.reduce((sum, x) => sum + x * x, 0) / weight.length);
  assert.ok(deviation > 0.01 && deviation < 0.03, `deviation ${deviation}`);
  addScoreHead(model);
  assert.throws(() => addScoreHead(model, { numLabels: 3 }), /score head of 1 labels; asked for was one of 3/);
  const hidden = randomFloats(5 * 24, 1);
  const scores = await scoresOf(model, hidden);
  const w = new Float32Array((await model.parameter(SCORE_WEIGHT).read()).buffer.slice(0));
  scores.forEach((score, t) => {
    const expected = w.reduce((sum, x, i) => sum + x * hidden[t * 24 + i]!, 0);
    assert.ok(Math.abs(score - expected) < 1e-6);
  });
  model.dispose();
});

test("an adapter of task type SEQ_CLS carries its own copy of the head, through files", async () => {
  const model = tinyModel(backend);
  await assert.rejects(getPeftModel(model, { taskType: "SEQ_CLS" }), /needs a model with a score head/);
  addScoreHead(model, { seed: 1 });
  const peft = await getPeftModel(model, { r: 2, taskType: "SEQ_CLS", targetModules: ["q_proj"] });
  const copy = peft.adapter.replacement(SCORE_WEIGHT)!;
  assert.notEqual(copy, model.parameter(SCORE_WEIGHT));
  copy.write(new Uint8Array(randomFloats(24, 9).buffer));
  const hidden = randomFloats(3 * 24, 2);
  const expected = await scoresOf(model, hidden);
  await peft.savePretrained(join(folder, "adapter"));
  peft.dispose();
  // A model without a head gets one from the file.
  const loaded = await PeftModel.fromPretrained(tinyModel(backend), join(folder, "adapter"));
  assert.equal(loaded.model.config.numLabels, 1);
  assert.deepEqual(await scoresOf(loaded.model, hidden), expected);
  loaded.dispose();
});

test("a classifier is saved and loaded as transformers' ForSequenceClassification", async () => {
  const model = tinyModel(backend, "llama", { architectures: ["LlamaForCausalLM"] });
  asSequenceClassifier(model, { numLabels: 2, seed: 5 });
  await saveModel(model, join(folder, "classifier"));
  const loaded = await loadModel({ backend, path: join(folder, "classifier") });
  assert.equal(loaded.config.numLabels, 2);
  assert.deepEqual(loaded.hfConfig.architectures, ["LlamaForSequenceClassification"]);
  assert.deepEqual(await loaded.parameter(SCORE_WEIGHT).read(), await model.parameter(SCORE_WEIGHT).read());
  model.dispose();
  loaded.dispose();
});
