import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { after, test } from "node:test";
import { Rng } from "../util/rng.ts";
import { BUILT, Child } from "./child.test.support.ts";
import { ARGS, type Order, type Report, trainingRows } from "./kill-child.test.support.ts";
import { inFolder, openBackend, quietTrainer, tinyPeft, trainedBytes } from "./tiny-training.test.support.ts";
import type { Trainer } from "./trainer.ts";

class TrainingChild extends Child<Order, Report> {
  /** The first report of a kind, from a step on; or that it failed. */
  report(kind: Report["kind"], step = 0): Promise<Report> {
    return this.until((report) => report.kind === kind && (!("step" in report) || report.step >= step));
  }
}

/** One is started ahead of need: loading takes longer than what is tested. */
const waiting: TrainingChild[] = [];
const next = (): TrainingChild => {
  while (waiting.length < 2) waiting.push(new TrainingChild("kill-child"));
  return waiting.shift()!;
};
after(() => {
  for (const child of waiting) child.process.kill("SIGKILL");
});

const wait = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

const KILLS = BUILT ? 20 : 3;
/** Steps that a process may finish before it is killed while it saves the next, or trains on. */
const STEPS = 3;

test(`killed ${KILLS} times at random moments, a training loses nothing that was saved`, {
  timeout: 300_000,
}, async () => {
  await inFolder(async (outputDir) => {
    const random = new Rng(2024);
    const order: Order = { outputDir, maxSteps: 10_000, saveStrategy: "steps", stepTime: 0 };
    let saved = 0;
    let saving = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      const child = next();
      await child.order(order);
      const begun = await child.report("begun");
      assert.ok(begun.kind === "begun", JSON.stringify(begun));
      assert.ok(begun.step >= saved, `kill ${kill}: went on from step ${begun.step}, though ${saved} was saved`);
      const steps = begun.step + 1 + random.below(STEPS);
      await child.report("stepped", steps);
      const stepped = performance.now();
      // The first tells how long a checkpoint takes here; the others are killed within that time, or a little later.
      if (kill === 0) {
        await child.report("saved", steps);
        saving = performance.now() - stepped;
      } else await wait(random.float() * 1.3 * saving);
      child.process.kill("SIGKILL");
      assert.equal((await child.exit).signal, "SIGKILL");
      for (const report of child.reports) if (report.kind === "saved") saved = report.step;
    }
    assert.ok(saved >= KILLS / 4, `only ${saved} steps were saved: the kills came too early to tell anything`);
    // Once more to the end, and the same without interruptions.
    const child = next();
    const maxSteps = saved + 5;
    await child.order({ ...order, maxSteps });
    const finished = await child.report("finished");
    assert.deepEqual(finished, { kind: "finished", step: maxSteps });
    await child.exit;
    const left = readdirSync(outputDir).sort();
    assert.deepEqual(
      left,
      [`checkpoint-${maxSteps - 1}`, `checkpoint-${maxSteps}`].sort(),
      "nothing unfinished is left",
    );
    const straight = await train({ maxSteps, saveStrategy: "no", outputDir });
    const resumed = await train({ maxSteps, saveStrategy: "no", outputDir, resumeFromCheckpoint: true });
    for (const [name, bytes] of straight) assert.ok(bytes.equals(resumed.get(name)!), `${name} differs`);
  });
});

async function train(args: Record<string, unknown>): Promise<Map<string, Buffer>> {
  using model = await tinyPeft(await openBackend(), { loraDropout: 0.1 });
  using trainer: Trainer = quietTrainer(model, { train: trainingRows(), args: { ...ARGS, ...args } });
  await trainer.train();
  return await trainedBytes(trainer);
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  test(`${signal} finishes the step, saves and throws`, { timeout: 60_000 }, async () => {
    await inFolder(async (outputDir) => {
      const child = next();
      await child.order({ outputDir, maxSteps: 1000, saveStrategy: "no", stepTime: 5 });
      await child.report("stepped");
      child.process.kill(signal);
      const report = await child.report("interrupted");
      assert.ok(report.kind === "interrupted", JSON.stringify(report));
      assert.ok(report.step >= 1 && report.step < 1000);
      assert.equal(basename(report.checkpoint), `checkpoint-${report.step}`);
      assert.ok(existsSync(join(report.checkpoint, "trainer_state.json")));
      assert.equal((await child.exit).code, 0);
      const resumed = next();
      await resumed.order({ outputDir, maxSteps: report.step + 1, saveStrategy: "no", stepTime: 0 });
      assert.deepEqual(await resumed.report("begun"), { kind: "begun", step: report.step });
      await resumed.exit;
    });
  });
}

test("a second SIGINT stops at once", { timeout: 60_000 }, async () => {
  await inFolder(async (outputDir) => {
    const child = next();
    await child.order({ outputDir, maxSteps: 2, saveStrategy: "no", stepTime: 60_000 });
    await child.report("stepped");
    child.process.kill("SIGINT");
    // The same signal twice in a row would be delivered once.
    await wait(300);
    assert.equal(child.process.signalCode, null, "the first only asks");
    child.process.kill("SIGINT");
    assert.equal((await child.exit).signal, "SIGINT");
    assert.deepEqual(readdirSync(outputDir), []);
  });
});

test("an AbortSignal does the same in this process, and leaves signals alone afterwards", async () => {
  await inFolder(async (outputDir) => {
    const listeners = process.listenerCount("SIGINT");
    const controller = new AbortController();
    using model = await tinyPeft(await openBackend());
    using trainer = quietTrainer(model, {
      train: trainingRows(),
      args: { outputDir, maxSteps: 9 },
      callbacks: [{ onStepBegin: ({ state }) => void (state.globalStep === 2 && controller.abort()) }],
    });
    await assert.rejects(trainer.train({ signal: controller.signal }), {
      name: "TrainingInterrupted",
      step: 3,
      checkpoint: join(outputDir, "checkpoint-3"),
      message: /interrupted after step 3; resumeFromCheckpoint: ".*checkpoint-3"/,
    });
    assert.equal(process.listenerCount("SIGINT"), listeners);
    assert.ok(existsSync(join(outputDir, "checkpoint-3", "optimizer.safetensors")));
  });
});
