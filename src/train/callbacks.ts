import type { CausalLM } from "../models/model.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import type { TrainingArguments } from "./arguments.ts";
import type { TrainerState } from "./state.ts";

/** What callbacks may ask for. Flags stand until the trainer has done it, or the next step or epoch begins. */
export interface TrainerControl {
  shouldTrainingStop: boolean;
  shouldEpochStop: boolean;
  shouldSave: boolean;
  shouldEvaluate: boolean;
  shouldLog: boolean;
}

export const newControl = (): TrainerControl => ({
  shouldTrainingStop: false,
  shouldEpochStop: false,
  shouldSave: false,
  shouldEvaluate: false,
  shouldLog: false,
});

/** What every event gets; `control` may be changed. */
export interface CallbackContext {
  readonly args: TrainingArguments;
  readonly state: Readonly<TrainerState>;
  readonly control: TrainerControl;
  readonly model: CausalLM;
  readonly optimizer: Optimizer;
}

/** One row of logs, in Hugging Face's keys. */
export type LogRow = Readonly<Record<string, number>>;

/** A callback's state in trainer_state.json, as Hugging Face's ExportableState lays it out. */
export interface CallbackState {
  readonly args: Readonly<Record<string, unknown>>;
  readonly attributes: Readonly<Record<string, unknown>>;
}

type Handler = (context: CallbackContext) => void | Promise<void>;
type RowHandler = (context: CallbackContext, row: LogRow) => void | Promise<void>;

/** Hugging Face's trainer events; each may be async, all are awaited, in the order the callbacks were given. */
export interface TrainerCallback {
  /** At the end of the trainer's constructor; not awaited. */
  onInitEnd?(context: CallbackContext): void;
  onTrainBegin?: Handler;
  onTrainEnd?: Handler;
  onEpochBegin?: Handler;
  onEpochEnd?: Handler;
  onStepBegin?: Handler;
  /** After each microbatch of a step but the last. */
  onSubstepEnd?: Handler;
  /** Gradients are summed and not yet clipped: `optimizer.gradient(trainable).read()`. */
  onPreOptimizerStep?: Handler;
  /** The weights have been updated; gradients are cleared. */
  onOptimizerStep?: Handler;
  onStepEnd?: Handler;
  onLog?: RowHandler;
  onEvaluate?: RowHandler;
  onPredict?: RowHandler;
  /** After each evaluation batch. */
  onPredictionStep?: Handler;
  /** After a checkpoint has been saved. */
  onSave?: Handler;
  /** GRPO and PPO, not Hugging Face's: before completions are generated, scored and rewarded, `completions` of them; and after. */
  onRolloutBegin?: RowHandler;
  onRolloutEnd?: RowHandler;
  /** With `restoreState`: what a checkpoint keeps of this callback. */
  saveState?(): CallbackState;
  restoreState?(state: CallbackState): void;
}

type Event = Exclude<keyof TrainerCallback, "onInitEnd" | "saveState" | "restoreState">;

/** A callback, or its class. */
export type CallbackOrClass = TrainerCallback | (abstract new (...args: never[]) => TrainerCallback);

/** Callbacks called in order. */
export class CallbackList {
  readonly callbacks: TrainerCallback[];

  constructor(callbacks: readonly TrainerCallback[]) {
    this.callbacks = [...callbacks];
  }

  async call(event: Event, context: CallbackContext, row: LogRow = {}): Promise<void> {
    // A copy: a callback may remove itself.
    for (const callback of [...this.callbacks]) await callback[event]?.(context, row);
  }

  initEnd(context: CallbackContext): void {
    for (const callback of [...this.callbacks]) callback.onInitEnd?.(context);
  }

  /** Take out one callback, or the first of a class; gives it, or null. */
  remove(callback: CallbackOrClass): TrainerCallback | null {
    const index = this.callbacks.findIndex((own) =>
      typeof callback === "function" ? own instanceof callback : own === callback,
    );
    return index < 0 ? null : this.callbacks.splice(index, 1)[0]!;
  }

  /** States by class name; several of a class as a list. */
  saveStates(): Record<string, CallbackState | CallbackState[]> {
    const states: Record<string, CallbackState | CallbackState[]> = {};
    for (const [name, callbacks] of this.stateful()) {
      const list = callbacks.map((callback) => callback.saveState!());
      states[name] = list.length === 1 ? list[0]! : list;
    }
    return states;
  }

  /** Hand states back to the callbacks that are still there. */
  restoreStates(states: Readonly<Record<string, CallbackState | readonly CallbackState[]>>): void {
    for (const [name, callbacks] of this.stateful()) {
      const list = [states[name] ?? []].flat() as CallbackState[];
      callbacks.forEach((callback, i) => {
        if (list[i]) callback.restoreState?.(list[i]);
      });
    }
  }

  private stateful(): Map<string, TrainerCallback[]> {
    const byName = new Map<string, TrainerCallback[]>();
    for (const callback of this.callbacks) {
      if (!callback.saveState) continue;
      const { name } = callback.constructor;
      byName.set(name, [...(byName.get(name) ?? []), callback]);
    }
    return byName;
  }
}

/** What a checkpoint keeps of the control, as transformers has it. */
export function controlState(control: TrainerControl): CallbackState {
  return {
    args: {
      should_epoch_stop: control.shouldEpochStop,
      should_evaluate: control.shouldEvaluate,
      should_log: control.shouldLog,
      should_save: control.shouldSave,
      should_training_stop: control.shouldTrainingStop,
    },
    attributes: {},
  };
}
