import type { TrainerState } from "./state.ts";

/** What callbacks may ask for; the trainer acts on it after the event and resets it. */
export interface TrainerControl {
  shouldTrainingStop: boolean;
  shouldEvaluate: boolean;
  shouldSave: boolean;
  shouldLog: boolean;
}

export interface CallbackContext {
  readonly state: Readonly<TrainerState>;
  readonly control: TrainerControl;
}

/** One row of logs, in Hugging Face's keys. */
export type LogRow = Readonly<Record<string, number>>;

/** Hugging Face's trainer events; each may be async and all are awaited. */
export interface TrainerCallback {
  onTrainBegin?(context: CallbackContext): void | Promise<void>;
  onEpochBegin?(context: CallbackContext): void | Promise<void>;
  onStepBegin?(context: CallbackContext): void | Promise<void>;
  /** After each microbatch but the window's last. */
  onSubstepEnd?(context: CallbackContext): void | Promise<void>;
  onStepEnd?(context: CallbackContext): void | Promise<void>;
  onEpochEnd?(context: CallbackContext): void | Promise<void>;
  onLog?(context: CallbackContext, logs: LogRow): void | Promise<void>;
  onEvaluate?(context: CallbackContext, metrics: LogRow): void | Promise<void>;
  onSave?(context: CallbackContext): void | Promise<void>;
  onTrainEnd?(context: CallbackContext): void | Promise<void>;
}

type Event = keyof TrainerCallback;

/** Callbacks called in order. */
export class CallbackList {
  readonly callbacks: TrainerCallback[];

  constructor(callbacks: readonly TrainerCallback[]) {
    this.callbacks = [...callbacks];
  }

  async call(event: Event, context: CallbackContext, row: LogRow = {}): Promise<void> {
    for (const callback of this.callbacks) await callback[event]?.(context, row);
  }
}
