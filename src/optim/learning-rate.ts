import { Plateau, type PlateauState } from "./plateau.ts";
import { type ScheduleOptions, type SchedulerType, scheduleFactor, scheduleSettings } from "./schedule.ts";

export interface LearningRateOptions {
  readonly type: SchedulerType;
  readonly learningRate: number;
  readonly warmupSteps: number;
  /** Optimizer steps of the whole training. */
  readonly totalSteps: number;
  /** lr_scheduler_kwargs, unchecked. */
  readonly settings: Readonly<Record<string, number | string>>;
  /** Of the metric that reduce_lr_on_plateau watches. */
  readonly greaterIsBetter: boolean;
}

/** State of a learning rate, fit for JSON. Schedules by step need none: their rate follows from the step. */
export interface LearningRateState {
  readonly type: SchedulerType;
  readonly plateau: PlateauState | null;
}

/** The learning rate of each optimizer step: a schedule by steps, or by how evaluations go. Throws OptionError. */
export class LearningRate {
  private readonly schedule: ScheduleOptions;
  private readonly plateau: Plateau | null;

  constructor({ greaterIsBetter, settings: given, ...rest }: LearningRateOptions) {
    const settings = scheduleSettings(rest.type, given);
    this.schedule = { ...rest, settings };
    const { learningRate } = rest;
    const byMetric = rest.type === "reduce_lr_on_plateau";
    this.plateau = byMetric ? new Plateau({ learningRate, greaterIsBetter, settings }) : null;
  }

  /** Whether it wants the metric of every evaluation. */
  get watchesMetric(): boolean {
    return this.plateau !== null;
  }

  /** The rate of an optimizer step, counted from 0. */
  at(step: number): number {
    return this.plateau?.rate ?? this.schedule.learningRate * scheduleFactor(step, this.schedule);
  }

  /** Take the watched metric of an evaluation; nothing for schedules by steps. */
  observe(metric: number): void {
    this.plateau?.observe(metric);
  }

  state(): LearningRateState {
    return { type: this.schedule.type, plateau: this.plateau?.state() ?? null };
  }

  /** Go on from `state`; one of another schedule is ignored, since the schedule was changed on purpose. */
  restore(state: LearningRateState): void {
    if (state.plateau) this.plateau?.restore(state.plateau);
  }
}
