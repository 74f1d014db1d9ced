import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Child } from "./child.test.support.ts";
import { SMALL_TRAININGS } from "./every-trainer.test.support.ts";
import { EVERY_ARGS, type EveryOrder, type EveryReport } from "./kill-every-child.test.support.ts";
import { inFolder, trainedBytes, withoutSpeed } from "./tiny-training.test.support.ts";

const NAMES = Object.keys(SMALL_TRAININGS);

/** Has all trainings come to a moment, from the steps they should have begun at, and kills them there. */
async function killAt(child: Child<EveryOrder, EveryReport>, order: EveryOrder, begun: number): Promise<void> {
  await child.order(order);
  for (const name of NAMES) {
    const report = await child.until((one) => one.kind === "stopped" && one.name === name);
    assert.equal(report.kind, "stopped", JSON.stringify(report));
  }
  child.process.kill("SIGKILL");
  assert.equal((await child.exit).signal, "SIGKILL");
  const steps = child.reports.flatMap((one) => (one.kind === "begun" ? [one.step] : []));
  assert.deepEqual(
    steps,
    NAMES.map(() => begun),
  );
}

/** The rest of a training, or all of it. */
async function finish(name: string, args: Readonly<Record<string, unknown>>) {
  const { trainer, model } = await SMALL_TRAININGS[name]!({ ...EVERY_ARGS, ...args });
  try {
    await trainer.train();
    return { bytes: await trainedBytes(trainer), history: withoutSpeed(trainer.state.logHistory) };
  } finally {
    trainer.dispose();
    model.dispose();
  }
}

test("every trainer, killed while it saves and while it trains, goes on bit for bit", {
  timeout: 120_000,
}, async (t) => {
  await inFolder(async (outputDir) => {
    const [first, second] = ["kill-every-child", "kill-every-child"].map(
      (file) => new Child<EveryOrder, EveryReport>(file),
    );
    t.after(() => {
      for (const child of [first!, second!]) child.process.kill("SIGKILL");
    });
    const files = (name: string): string[] =>
      readdirSync(join(outputDir, name)).filter((file) => /checkpoint/.test(file));
    await killAt(first!, { outputDir, stop: "saving", at: 4 }, 0);
    for (const name of NAMES) {
      // The adapter of the unfinished checkpoint is there, the rest is not.
      const partial = join(outputDir, name, ".partial-checkpoint-4");
      assert.deepEqual(files(name).sort(), [".partial-checkpoint-4", "checkpoint-2"], name);
      assert.ok(existsSync(join(partial, "adapter_model.safetensors")), name);
      assert.ok(!existsSync(join(partial, "trainer_state.json")), name);
    }
    await killAt(second!, { outputDir, stop: "training", at: 4 }, 2);
    for (const name of NAMES) {
      assert.deepEqual(files(name).sort(), ["checkpoint-2", "checkpoint-4"], `${name}: nothing unfinished is left`);
      const resumed = await finish(name, { outputDir: join(outputDir, name), resumeFromCheckpoint: true });
      const straight = await finish(name, { outputDir: join(outputDir, `${name}-straight`), saveStrategy: "no" });
      assert.deepEqual(resumed.bytes, straight.bytes, name);
      assert.deepEqual(resumed.history, straight.history, name);
    }
  });
});
