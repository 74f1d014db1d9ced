import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { loadModel } from "../../models/load/load.ts";
import { PeftModel } from "../../peft/index.ts";
import { relativeError } from "../../testing/kernels.ts";
import { forwardLogits } from "../../testing/model-run.ts";
import { oracleFloats, oracleJson, oraclePath, oracleTensors } from "../../testing/oracle.ts";
import type { OracleBatch } from "../../testing/oracle-batch.ts";
import {
  inFolder,
  openBackend,
  quietTrainer,
  randomRow,
  randomRows,
  source,
  tinyPeft,
  trainedBytes,
  withoutSpeed,
} from "../tiny-training.test.support.ts";

const ADALORA = { peftType: "ADALORA", initR: 4, targetR: 2, tinit: 1, tfinal: 3, deltaT: 2 } as const;
type Backend = Awaited<ReturnType<typeof openBackend>>;
const adaPeft = (backend: Backend, options: object = {}) => tinyPeft(backend, { ...ADALORA, ...options } as object);

test("a stopped training resumes bit for bit, ranks, importance and log included", async () => {
  using backend = await openBackend();
  const rows = randomRows(12);
  const run = async (outputDir: string, args: object, resumeFromCheckpoint: string | null = null) => {
    using model = await adaPeft(backend);
    const all = { maxSteps: 12, outputDir, perDeviceTrainBatchSize: 2, saveStrategy: "steps", ...args };
    using trainer = quietTrainer(model, { train: source(rows), args: all });
    await trainer.train({ resumeFromCheckpoint });
    const history = withoutSpeed(trainer.state.logHistory);
    const plot = readFileSync(join(outputDir, "adalora_ranks.svg"), "utf8");
    return { bytes: await trainedBytes(trainer), history, plot, ranks: model.adapter.adalora!.rankPattern() };
  };
  await inFolder(async (folder) => {
    const whole = await run(join(folder, "whole"), { saveSteps: 5 });
    // Step 5 is between allocations, step 10 after the last one.
    for (const step of [5, 10]) {
      const checkpoint = join(folder, "whole", `checkpoint-${step}`);
      assert.ok(existsSync(join(checkpoint, "adalora_state.safetensors")));
      const rest = await run(join(folder, `resumed-${step}`), { saveSteps: 100 }, checkpoint);
      assert.deepEqual(rest.ranks, whole.ranks);
      assert.deepEqual(rest.bytes, whole.bytes);
      assert.deepEqual(rest.history, whole.history);
      assert.equal(rest.plot, whole.plot);
    }
  });
});

test("the total budget is reached, ranks differ by module, and what is out of use has E zero", async () => {
  using backend = await openBackend();
  using model = await adaPeft(backend);
  await inFolder(async (outputDir) => {
    using trainer = quietTrainer(model, { train: source(randomRows(16)), args: { maxSteps: 14, outputDir } });
    await trainer.train();
    const ranks = [...model.adapter.adalora!.ranks!.values()].map((kept) => kept.filter(Boolean).length);
    assert.equal(
      ranks.reduce((a, b) => a + b),
      2 * model.adapter.targets.length,
    );
    assert.ok(new Set(ranks).size > 1, `ranks ${ranks}`);
    for (const { kind, tensor, target } of model.adapter.tensors) {
      if (kind !== "E") continue;
      const e = [...new Float32Array((await tensor.read()).buffer as ArrayBuffer)];
      const kept = model.adapter.adalora!.ranks!.get(target!.path)!;
      assert.deepEqual(
        e.map((value) => value !== 0),
        kept,
      );
    }
    const lines = trainer.state.logHistory.filter((row) => "adalora_budget" in row);
    assert.ok(lines.length >= 2, `${lines.length} allocations logged`);
    assert.equal(lines.at(-1)!.adalora_budget, 2 * model.adapter.targets.length);
    const plot = readFileSync(join(outputDir, "adalora_ranks.svg"), "utf8");
    assert.match(plot, /^<svg .*<\/svg>\n$/s);
    assert.match(plot, /layers\.0\.self_attn\.q_proj: rank \d+, steps \d+ to 14/);
    assert.equal(trainer.args.maxSteps, 14);
    await model.savePretrained(outputDir);
    assert.equal(JSON.parse(readFileSync(join(outputDir, "adapter_config.json"), "utf8")).total_step, 14);
  });
});

test("accumulating microbatches gives what one batch gives: the orthogonality term counts once a step", async () => {
  using backend = await openBackend();
  const rows = Array.from({ length: 16 }, (_, i) => [randomRow(9, 40 + i)]);
  const run = async (args: object) => {
    using model = await adaPeft(backend, { initLoraWeights: false, orthRegWeight: 0.01 });
    const all = { maxSteps: 8, learningRate: 1e-3, ...args };
    using trainer = quietTrainer(model, { train: source(rows), args: all });
    await trainer.train();
    const losses = trainer.state.logHistory.flatMap(({ loss }) => (loss === undefined ? [] : [loss]));
    return { losses, bytes: await trainedBytes(trainer), ranks: model.adapter.adalora!.rankPattern() };
  };
  const whole = await run({ perDeviceTrainBatchSize: 2 });
  const parts = await run({ perDeviceTrainBatchSize: 1, gradientAccumulationSteps: 2 });
  assert.deepEqual(parts.ranks, whole.ranks);
  whole.losses.forEach((loss, i) => assert.ok(Math.abs(parts.losses[i]! / loss - 1) < 1e-5));
  for (const [name, bytes] of whole.bytes) {
    if (!/lora_[ABE]$/.test(name)) continue;
    const [got, want] = [parts.bytes.get(name)!, bytes].map((raw) => new Float32Array(Uint8Array.from(raw).buffer));
    if (want!.every((value) => value === 0)) continue;
    assert.ok(relativeError(got!, want!) < 1e-4, name);
  }
});

test("a step with gradients that are not finite leaves importance as it was", async () => {
  using backend = await openBackend();
  using model = await adaPeft(backend);
  using trainer = quietTrainer(model, { train: source(randomRows(8)), args: { maxSteps: 8 } });
  const { method, optimizer } = trainer;
  const poison = optimizer.gradient(optimizer.trainables[0]!);
  poison.write(new Uint8Array(Float32Array.of(Number.NaN).buffer));
  await method!.beforeUpdate(0);
  await optimizer.update(0, 1);
  assert.ok(
    new Float32Array((await poison.read()).buffer as ArrayBuffer).every((value) => value === 0),
    "cleared",
  );
  await inFolder(async (folder) => {
    await method!.save(folder);
    const { openSafetensors } = await import("../../formats/safetensors.ts");
    using file = openSafetensors(join(folder, "adalora_state.safetensors"));
    for (const [name, { byteLength }] of file.tensors) {
      if (!name.includes("exp_avg")) continue;
      const data = new Uint8Array(byteLength);
      await file.readInto(name, data);
      assert.ok(
        data.every((byte) => byte === 0),
        name,
      );
    }
  });
});

test("schedules that would never prune are errors before training", async () => {
  using backend = await openBackend();
  const train = source(randomRows(8));
  for (const [options, maxSteps, message] of [
    [{}, 4, /AdaLoRA: tinit 1 and tfinal 3 leave no step of 4 to allocate ranks in/],
    [{ totalStep: 100 }, 20, /AdaLoRA: totalStep 100 less tfinal 3 is beyond the training's 20 steps/],
  ] as const) {
    using model = await adaPeft(backend, options);
    assert.throws(() => quietTrainer(model, { train, args: { maxSteps } }), message);
  }
});

for (const name of ["adalora", "adalora_to_the_end"]) {
  test(`${name}: PEFT's pruned adapter gives PEFT's logits, merged too, and trains on with its ranks`, async () => {
    using backend = await openBackend();
    const expected = oracleJson<{ base_model: string; steps: OracleBatch[] }>("peft_variants", name, "expect.json");
    const logits = oracleFloats(oracleTensors("peft_variants", name, "reloaded.safetensors"), "logits");
    const ids = expected.steps[0]!.input_ids[0]!;
    using model = await PeftModel.fromPretrained(
      await loadModel({ path: oraclePath(expected.base_model), backend }),
      oraclePath("peft_variants", name, "adapter_final"),
      { isTrainable: true },
    );
    const check = async (what: string) => {
      const got = (await forwardLogits(model.model, [ids]))[0]!;
      assert.ok(relativeError(got, logits) < 1e-5, `${what}: ${relativeError(got, logits)}`);
    };
    await check("loaded");
    await model.mergeAdapter();
    await check("merged");
    model.unmergeAdapter();
    await check("unmerged");
    const before = model.adapter.adalora!.rankPattern();
    const rows = Array.from({ length: 4 }, (_, i) => [randomRow(9, i)]);
    using trainer = quietTrainer(model, { train: source(rows), args: { maxSteps: 2, perDeviceTrainBatchSize: 1 } });
    await trainer.train();
    assert.deepEqual(model.adapter.adalora!.rankPattern(), before);
    await inFolder(async (folder) => {
      await model.savePretrained(folder);
      using again = await PeftModel.fromPretrained(
        await loadModel({ path: oraclePath(expected.base_model), backend }),
        folder,
      );
      const [a, b] = [await forwardLogits(model.model, [ids]), await forwardLogits(again.model, [ids])];
      assert.deepEqual(a[0], b[0]);
    });
  });
}
