import { FormatError, show } from "../formats/errors.ts";
import { PythonFloat, pythonJson } from "../util/python-json.ts";
import type { CallbackState } from "./callbacks.ts";
import { count, number, parsePythonJson, record } from "./python-json-reader.ts";

/** A row of the history: logs, with the step they were made at. */
export type HistoryRow = Record<string, number>;

/** What trainer_state.json holds, in Hugging Face's terms. */
export interface TrainerState {
  /** Epochs trained, with the fraction of the one at hand. */
  epoch: number;
  /** Optimizer steps done. */
  globalStep: number;
  maxSteps: number;
  numTrainEpochs: number;
  trainBatchSize: number;
  loggingSteps: number;
  saveSteps: number;
  evalSteps: number;
  /** Tokens trained on (there is no padding to count); in the file only when includeNumInputTokensSeen asks for it. */
  numInputTokensSeen: number;
  /** Floating-point operations, as Hugging Face estimates them: 6 · tokens · parameters without the embedding. */
  totalFlos: number;
  logHistory: HistoryRow[];
  bestMetric: number | null;
  bestGlobalStep: number | null;
  bestModelCheckpoint: string | null;
}

/** States of callbacks, by class name. */
export type CallbackStates = Readonly<Record<string, CallbackState | readonly CallbackState[]>>;

/** Numbers of log rows that Python holds as ints; all others are floats. */
const INTEGER_KEYS = new Set(["step", "num_input_tokens_seen"]);

/** The file's content, laid out as Hugging Face's: keys sorted, two spaces, floats with a point. */
export function stateToJson(state: TrainerState, callbacks: CallbackStates, withTokens: boolean): string {
  const row: Record<string, unknown> = {
    best_global_step: state.bestGlobalStep,
    best_metric: state.bestMetric === null ? null : new PythonFloat(state.bestMetric),
    best_model_checkpoint: state.bestModelCheckpoint,
    epoch: new PythonFloat(state.epoch),
    eval_steps: state.evalSteps,
    global_step: state.globalStep,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    log_history: state.logHistory.map((logs) =>
      Object.fromEntries(
        Object.entries(logs).map(([key, value]) => [key, INTEGER_KEYS.has(key) ? value : new PythonFloat(value)]),
      ),
    ),
    logging_steps: state.loggingSteps,
    max_steps: state.maxSteps,
    num_input_tokens_seen: withTokens ? state.numInputTokensSeen : 0,
    num_train_epochs: state.numTrainEpochs,
    save_steps: state.saveSteps,
    stateful_callbacks: callbacks,
    total_flos: new PythonFloat(state.totalFlos),
    train_batch_size: state.trainBatchSize,
    trial_name: null,
    trial_params: null,
  };
  return `${pythonJson(row)}\n`;
}

/** The parts of a trainer_state.json that resuming needs. */
export interface SavedState
  extends Pick<
    TrainerState,
    "globalStep" | "epoch" | "logHistory" | "totalFlos" | "bestMetric" | "bestGlobalStep" | "bestModelCheckpoint"
  > {
  readonly callbacks: CallbackStates;
}

/** Read a trainer_state.json, Hugging Face's too. Throws FormatError naming file and field. */
export function stateFromJson(text: string, file: string): SavedState {
  const json = parsePythonJson(text, file);
  const optional = (name: string): number | null =>
    json[name] === null || json[name] === undefined ? null : number(json, name, file);
  const history = json.log_history;
  const isRow = (row: unknown): boolean => typeof row === "object" && row !== null && !Array.isArray(row);
  if (!Array.isArray(history) || !history.every(isRow)) {
    throw new FormatError({ file, field: "log_history", found: show(history), expected: "a list of objects" });
  }
  const checkpoint = json.best_model_checkpoint ?? null;
  if (checkpoint !== null && typeof checkpoint !== "string") {
    throw new FormatError({
      file,
      field: "best_model_checkpoint",
      found: show(checkpoint),
      expected: "a path or null",
    });
  }
  return {
    globalStep: count(json, "global_step", file),
    epoch: number(json, "epoch", file),
    totalFlos: optional("total_flos") ?? 0,
    logHistory: history as HistoryRow[],
    bestMetric: optional("best_metric"),
    bestGlobalStep: optional("best_global_step"),
    bestModelCheckpoint: checkpoint,
    callbacks: (json.stateful_callbacks === undefined
      ? {}
      : record(json, "stateful_callbacks", file)) as CallbackStates,
  };
}
