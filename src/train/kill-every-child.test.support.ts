/** A training of every kind in one process, side by side, which stop at a moment and wait there to be killed. */
import { join } from "node:path";
import { getLastCheckpoint } from "./checkpoint-folders.ts";
import { SMALL_TRAININGS } from "./every-trainer.test.support.ts";

export interface EveryOrder {
  /** Each training has a folder of its name in it. */
  readonly outputDir: string;
  /** In the middle of writing the checkpoint of step `at`, or of the step after it. */
  readonly stop: "saving" | "training";
  readonly at: number;
}

export type EveryReport =
  | { readonly kind: "ready" }
  | { readonly kind: "begun"; readonly name: string; readonly step: number }
  | { readonly kind: "stopped"; readonly name: string }
  | { readonly kind: "failed"; readonly name: string; readonly message: string };

/** What these trainings and those that go on from them share. */
export const EVERY_ARGS = { maxSteps: 6, saveStrategy: "steps", saveSteps: 2, lrSchedulerType: "constant" } as const;

const report = (message: EveryReport): void => void process.send?.(message);

async function train(name: string, { outputDir, stop, at }: EveryOrder): Promise<void> {
  const folder = join(outputDir, name);
  const { trainer } = await SMALL_TRAININGS[name]!({ ...EVERY_ARGS, outputDir: folder });
  const wait = (): Promise<never> => {
    report({ kind: "stopped", name });
    return new Promise(() => undefined);
  };
  trainer.addCallback({
    onTrainBegin: ({ state }) => report({ kind: "begun", name, step: state.globalStep }),
    onPreOptimizerStep: ({ state }) => (stop === "training" && state.globalStep === at ? wait() : undefined),
  });
  const saveState = trainer.saveState.bind(trainer);
  trainer.saveState = async (dir) => {
    await saveState(dir);
    if (stop === "saving" && trainer.state.globalStep === at) await wait();
  };
  const resumeFromCheckpoint = (await getLastCheckpoint(folder)) !== null;
  await trainer.train({ resumeFromCheckpoint });
  throw new Error("training ended");
}

if (process.send) {
  process.once("message", (order: EveryOrder) => {
    for (const name of Object.keys(SMALL_TRAININGS)) {
      train(name, order).catch((error: Error) => {
        report({ kind: "failed", name, message: error.stack ?? error.message });
      });
    }
  });
  report({ kind: "ready" });
}
