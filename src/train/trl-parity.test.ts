import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { openCpuBackend } from "../backends/cpu/backend.ts";
import { loadModel } from "../models/load/load.ts";
import { PeftModel } from "../peft/index.ts";
import { oraclePath as oracle, oracleJson } from "../testing/oracle.ts";
import type { TrainerCallback } from "./callbacks.ts";
import { TokenizedSource } from "./tokenized-source.ts";
import { asTrainable } from "./trainable.ts";
import { Trainer } from "./trainer.ts";

interface OracleRow {
  readonly input_ids: number[];
  readonly labels: number[];
}

interface Expected {
  readonly options: Record<string, unknown>;
  readonly events: string[];
  readonly checkpoints: string[];
  readonly log_history: Record<string, number>[];
}

const backend = await openCpuBackend({ threads: 2, prefer: "native" });
const rows = oracleJson<{ train: OracleRow[]; eval: OracleRow[] }>("trainer", "rows.json");

const source = (list: readonly OracleRow[]): TokenizedSource =>
  new TokenizedSource(
    list.map(({ input_ids, labels }) => [{ inputIds: Int32Array.from(input_ids), labels: Int32Array.from(labels) }]),
    { strategy: "sequential", seed: 0, rowsPerStep: 1 },
  );

const EVENTS = [
  "onInitEnd",
  "onTrainBegin",
  "onTrainEnd",
  "onEpochBegin",
  "onEpochEnd",
  "onStepBegin",
  "onSubstepEnd",
  "onPreOptimizerStep",
  "onOptimizerStep",
  "onStepEnd",
  "onLog",
  "onEvaluate",
  "onPredict",
  "onPredictionStep",
  "onSave",
] as const satisfies readonly (keyof TrainerCallback)[];

/** A callback that notes every event as Hugging Face's name for it and the step. */
function recorder(events: string[]): TrainerCallback {
  const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return Object.fromEntries(
    EVENTS.map((name) => [
      name,
      ({ state }: { state: { globalStep: number } }) => void events.push(`${snake(name)}@${state.globalStep}`),
    ]),
  );
}

/** Integers as I, floats as F: what is left is the layout. */
const layout = (json: string): string =>
  json.replace(/(?<=: )-?\d[\d.e+-]*/g, (number) => (/^-?\d+$/.test(number) ? "I" : "F"));

const isSpeed = (key: string): boolean => /_runtime$|_per_second$/.test(key);

for (const name of ["lora", "full", "plateau"]) {
  test(`${name}: logs, events, checkpoints and trainer_state.json are TRL's`, async () => {
    const expected = oracleJson<Expected>("trainer", name, "expected.json");
    const full = name === "full";
    const base = await loadModel({ path: oracle("families", "llama3", "model"), backend, fullFinetuning: full });
    const adapter = oracle("trajectories", "llama3_lora", "adapter_init");
    using model = full ? base : await PeftModel.fromPretrained(base, adapter, { isTrainable: true });
    const outputDir = mkdtempSync(join(tmpdir(), "trl-parity-"));
    try {
      const events: string[] = [];
      using trainer = new Trainer({
        model: asTrainable(model),
        train: source(rows.train),
        evaluation: source(rows.eval),
        maxPositions: 64,
        args: { ...expected.options, outputDir, logLevel: "error" },
        callbacks: [recorder(events)],
      });
      await trainer.train();

      const history = trainer.state.logHistory;
      assert.equal(history.length, expected.log_history.length);
      expected.log_history.forEach((row, i) => {
        const own = history[i]!;
        assert.deepEqual(new Set(Object.keys(own)), new Set(Object.keys(row)), `keys of row ${i}`);
        for (const [key, value] of Object.entries(row)) {
          // Padding counts as work there.
          if (isSpeed(key) || key === "total_flos") continue;
          // The plateau's rate of 0.05 lets rounding grow most.
          const tolerance = /loss|norm|entropy/.test(key) ? 2e-5 : key.includes("accuracy") ? 1e-6 : 1e-12;
          const error = Math.abs(own[key]! - value) / Math.max(1, Math.abs(value));
          assert.ok(error <= tolerance, `row ${i} (step ${row.step}): ${key} is ${own[key]}, expected ${value}`);
        }
      });
      assert.deepEqual(events, expected.events);

      const checkpoints = readdirSync(outputDir).sort();
      assert.deepEqual(checkpoints, expected.checkpoints);
      if (checkpoints.length > 0) {
        const last = `checkpoint-${trainer.state.globalStep}`;
        const own = readFileSync(join(outputDir, last, "trainer_state.json"), "utf8");
        const theirs = readFileSync(oracle("trainer", name, "trainer_state.json"), "utf8");
        assert.equal(layout(own.replace(outputDir, "OUTPUT_DIR")), layout(theirs).replace('"epoch": I', '"epoch": F'));
        const values = (text: string) => {
          const { log_history, total_flos, best_metric, best_model_checkpoint, ...rest } = JSON.parse(text);
          return rest;
        };
        assert.deepEqual(values(own), values(theirs));
      }
    } finally {
      rmSync(outputDir, { recursive: true });
    }
  });
}
