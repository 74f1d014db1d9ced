/** A training in a process of its own, for tests that stop it. Waits for its orders; tells its parent what it has done. */
import { getLastCheckpoint } from "./checkpoint-folders.ts";
import { TrainingInterrupted } from "./interrupt.ts";
import { openBackend, quietTrainer, randomRows, source, tinyPeft } from "./tiny-training.test.support.ts";

export interface Order {
  readonly outputDir: string;
  readonly maxSteps: number;
  readonly saveStrategy: "steps" | "no";
  /** Milliseconds that every step takes at least. */
  readonly stepTime: number;
}

export type Report =
  | { readonly kind: "ready" }
  /** Training begins, after so many steps. */
  | { readonly kind: "begun"; readonly step: number }
  | { readonly kind: "stepped"; readonly step: number }
  | { readonly kind: "saved"; readonly step: number }
  | { readonly kind: "interrupted"; readonly step: number; readonly checkpoint: string }
  | { readonly kind: "finished"; readonly step: number }
  | { readonly kind: "failed"; readonly message: string };

/** The settings that the process and its test share. */
export const ARGS = {
  saveSteps: 1,
  saveTotalLimit: 2,
  lrSchedulerType: "constant",
  perDeviceTrainBatchSize: 2,
  seed: 11,
};
export const trainingRows = () => source(randomRows(5), { strategy: "random" });

const report = (message: Report): void => void process.send?.(message);

async function train({ outputDir, maxSteps, saveStrategy, stepTime }: Order): Promise<void> {
  using model = await tinyPeft(await openBackend(), { loraDropout: 0.1 });
  using trainer = quietTrainer(model, {
    train: trainingRows(),
    args: { ...ARGS, outputDir, maxSteps, saveStrategy },
    callbacks: [
      {
        onTrainBegin: ({ state }) => report({ kind: "begun", step: state.globalStep }),
        async onStepEnd({ state }) {
          report({ kind: "stepped", step: state.globalStep });
          if (stepTime > 0) await new Promise((resolve) => setTimeout(resolve, stepTime));
        },
        onSave: ({ state }) => report({ kind: "saved", step: state.globalStep }),
      },
    ],
  });
  const resume = (await getLastCheckpoint(outputDir)) !== null;
  const { globalStep } = await trainer.train({ resumeFromCheckpoint: resume });
  report({ kind: "finished", step: globalStep });
}

if (process.send) {
  process.once("message", (order: Order) => {
    train(order)
      .catch((error: Error) => {
        if (error instanceof TrainingInterrupted) {
          report({ kind: "interrupted", step: error.step, checkpoint: error.checkpoint });
        } else report({ kind: "failed", message: error.stack ?? error.message });
      })
      .finally(() => process.disconnect());
  });
  report({ kind: "ready" });
}
