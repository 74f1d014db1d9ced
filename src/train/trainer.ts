import { join } from "node:path";
import type { Batch } from "../data/collate.ts";
import { Optimizer } from "../optim/optimizer.ts";
import { type ScheduleOptions, scheduleFactor, scheduleSettings, warmupSteps } from "../optim/schedule.ts";
import { TrainingArguments, type TrainingArgumentsOptions } from "./arguments.ts";
import { type BatchSource, windows } from "./batches.ts";
import {
  type CallbackContext,
  CallbackList,
  type LogRow,
  type TrainerCallback,
  type TrainerControl,
} from "./callbacks.ts";
import { latestCheckpoint, loadCheckpoint, removeOldCheckpoints, saveCheckpoint } from "./checkpoint.ts";
import { LossLog } from "./loss-log.ts";
import { ProgressCallback } from "./progress.ts";
import type { TrainerState } from "./state.ts";
import { type ComputeLoss, StepRunner } from "./step.ts";
import type { TrainableModel } from "./trainable.ts";

export interface TrainerOptions {
  readonly model: TrainableModel;
  readonly args?: TrainingArguments | TrainingArgumentsOptions;
  readonly train: BatchSource;
  readonly evaluation?: BatchSource | undefined;
  readonly callbacks?: readonly TrainerCallback[];
  /** Replaces next-token cross-entropy; traced like it. */
  readonly computeLoss?: ComputeLoss | undefined;
  readonly maxPositions: number;
}

/** What a training returns, as Hugging Face's TrainOutput. */
export interface TrainOutput {
  readonly globalStep: number;
  readonly trainingLoss: number;
  readonly metrics: LogRow;
}

/**
 * The training loop: windows of microbatches, one optimizer step each, with the loss normalised by the trained tokens of
 * the whole window. Everything random is drawn from (seed, step), so a resumed run repeats an uninterrupted one.
 */
export class Trainer {
  readonly args: TrainingArguments;
  readonly state: TrainerState;
  readonly runner: StepRunner;
  readonly optimizer: Optimizer;
  protected readonly options: TrainerOptions;
  private readonly scheduleSettings: Readonly<Record<string, number | string>>;
  private readonly callbacks: CallbackList;
  private readonly control: TrainerControl = {
    shouldTrainingStop: false,
    shouldEvaluate: false,
    shouldSave: false,
    shouldLog: false,
  };

  constructor(options: TrainerOptions) {
    this.options = options;
    this.args = options.args instanceof TrainingArguments ? options.args : new TrainingArguments(options.args);
    const { values } = this.args;
    const { model } = options;
    this.scheduleSettings = scheduleSettings(values.lrSchedulerType, values.lrSchedulerKwargs);
    if (model.trainables.length === 0) throw new Error("nothing to train: no parameter of the model is trainable");
    if (values.evalStrategy !== "no" && !options.evaluation) {
      throw new Error(`evalStrategy is "${values.evalStrategy}" but no evalDataset was given`);
    }
    this.optimizer = new Optimizer(model.lm.backend, model.trainables, {
      beta1: values.adamBeta1,
      beta2: values.adamBeta2,
      epsilon: values.adamEpsilon,
      weightDecay: values.weightDecay,
      eightBit: values.optim === "adamw_8bit" || values.optim === "adamw_bnb_8bit",
    });
    this.runner = new StepRunner({
      model: model.lm,
      optimizer: this.optimizer,
      computeLoss: options.computeLoss,
      policy: model.checkpointing,
      maxPositions: options.maxPositions,
      labelSmoothing: values.labelSmoothingFactor,
    });
    const perEpoch = this.stepsPerEpoch();
    const maxSteps = values.maxSteps > 0 ? values.maxSteps : Math.ceil(values.numTrainEpochs * perEpoch);
    this.state = {
      epoch: 0,
      globalStep: 0,
      maxSteps,
      numTrainEpochs: Math.ceil(maxSteps / perEpoch),
      trainBatchSize: values.perDeviceTrainBatchSize,
      loggingSteps: values.loggingSteps,
      saveSteps: values.saveSteps,
      evalSteps: values.evalSteps ?? values.loggingSteps,
      numInputTokensSeen: 0,
      logHistory: [],
      bestMetric: null,
      bestGlobalStep: null,
      bestModelCheckpoint: null,
    };
    const progress = new ProgressCallback({ memory: () => this.runner.memory(), quiet: values.disableTqdm });
    this.callbacks = new CallbackList([progress, ...(options.callbacks ?? [])]);
  }

  /** Train from the start, or from a checkpoint: `true` takes the latest of outputDir, a path that one. */
  async train({
    resumeFromCheckpoint = false,
  }: {
    resumeFromCheckpoint?: boolean | string;
  } = {}): Promise<TrainOutput> {
    if (resumeFromCheckpoint) await this.resume(resumeFromCheckpoint);
    const { state, control } = this;
    const perEpoch = this.stepsPerEpoch();
    const log = new LossLog();
    const started = performance.now();
    const firstStep = state.globalStep;
    const tokensBefore = state.numInputTokensSeen;
    control.shouldTrainingStop = false;
    await this.emit("onTrainBegin");
    for (let epoch = Math.floor(state.globalStep / perEpoch); state.globalStep < state.maxSteps; epoch++) {
      await this.emit("onEpochBegin");
      const skip = state.globalStep - epoch * perEpoch;
      for await (const window of this.windows(epoch, skip)) {
        await this.step(window, log);
        state.epoch = state.globalStep / perEpoch;
        await this.emit("onStepEnd");
        const epochEnds = state.globalStep % perEpoch === 0;
        await this.afterStep(log, epochEnds);
        if (control.shouldTrainingStop || state.globalStep >= state.maxSteps) break;
      }
      await this.emit("onEpochEnd");
      if (control.shouldTrainingStop) break;
    }
    const seconds = (performance.now() - started) / 1000;
    const steps = state.globalStep - firstStep;
    const { values } = this.args;
    const samples = steps * values.perDeviceTrainBatchSize * values.gradientAccumulationSteps;
    const metrics = {
      train_runtime: seconds,
      train_samples_per_second: samples / seconds,
      train_steps_per_second: steps / seconds,
      train_tokens_per_second: (state.numInputTokensSeen - tokensBefore) / seconds,
      train_loss: log.overall(),
      epoch: state.epoch,
    };
    await this.log(metrics);
    await this.emit("onTrainEnd");
    return { globalStep: state.globalStep, trainingLoss: metrics.train_loss, metrics };
  }

  /** Mean loss per trained token of the evaluation data. */
  async evaluate(): Promise<LogRow> {
    const { evaluation } = this.options;
    if (!evaluation) throw new Error("no evalDataset was given");
    const started = performance.now();
    let [crossEntropy, correct, entropy, targets] = [0, 0, 0, 0];
    for await (const batch of evaluation.batches(0, this.args.values.perDeviceEvalBatchSize)) {
      const { metrics } = await this.runner.evaluate(batch, 1);
      crossEntropy += metrics.crossEntropy;
      correct += metrics.correct;
      entropy += metrics.entropy;
      targets += metrics.targets;
    }
    const seconds = (performance.now() - started) / 1000;
    const metrics = {
      eval_loss: crossEntropy / targets,
      eval_entropy: entropy / targets,
      eval_mean_token_accuracy: correct / targets,
      eval_runtime: seconds,
      eval_samples_per_second: evaluation.length / seconds,
      epoch: this.state.epoch,
    };
    this.state.logHistory.push({ ...metrics, step: this.state.globalStep });
    await this.emit("onEvaluate", metrics);
    return metrics;
  }

  /** Write the trained adapter or model. */
  async saveModel(dir: string = this.args.outputDir): Promise<void> {
    await this.options.model.save(dir);
  }

  dispose(): void {
    this.runner.dispose();
    this.optimizer.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** The learning rate of an optimizer step, counted from 0. */
  learningRate(step: number): number {
    const { values } = this.args;
    const schedule: ScheduleOptions = {
      type: values.lrSchedulerType,
      learningRate: values.learningRate,
      warmupSteps: warmupSteps(values, this.state.maxSteps),
      totalSteps: this.state.maxSteps,
      settings: this.scheduleSettings,
    };
    return values.learningRate * scheduleFactor(step, schedule);
  }

  private async step(window: readonly Batch[], log: LossLog): Promise<void> {
    const { state } = this;
    const { seed, maxGradNorm } = this.args.values;
    await this.emit("onStepBegin");
    const targets = window.reduce((sum, batch) => sum + batch.numTargets, 0);
    for (const [index, batch] of window.entries()) {
      const masks = Uint32Array.of(seed >>> 0, state.globalStep * window.length + index);
      log.add(await this.runner.train(batch, targets > 0 ? 1 / targets : 0, masks));
      state.numInputTokensSeen += batch.numTokens;
      if (index + 1 < window.length) await this.emit("onSubstepEnd");
    }
    const rate = this.learningRate(state.globalStep);
    const norm = await this.optimizer.update(rate, maxGradNorm);
    log.stepDone(rate, norm);
    if (!Number.isFinite(norm)) {
      process.emitWarning(
        `step ${state.globalStep + 1}: the gradient norm is ${norm}; the step was skipped`,
        "UnslothWarning",
      );
    }
    state.globalStep++;
  }

  private async afterStep(log: LossLog, epochEnds: boolean): Promise<void> {
    const { state, control } = this;
    const { values } = this.args;
    const due = (strategy: string, every: number): boolean =>
      strategy === "steps" ? state.globalStep % every === 0 : strategy === "epoch" && epochEnds;
    const first = values.loggingFirstStep && state.globalStep === 1;
    if (control.shouldLog || first || state.globalStep % values.loggingSteps === 0) {
      await this.log({ ...log.take(), epoch: state.epoch, num_tokens: state.numInputTokensSeen });
    }
    if (control.shouldEvaluate || due(values.evalStrategy, state.evalSteps)) await this.evaluate();
    if (control.shouldSave || due(values.saveStrategy, values.saveSteps)) await this.saveCheckpoint();
    control.shouldLog = control.shouldEvaluate = control.shouldSave = false;
  }

  private async saveCheckpoint(): Promise<void> {
    const dir = join(this.args.outputDir, `checkpoint-${this.state.globalStep}`);
    await saveCheckpoint(dir, { model: this.options.model, optimizer: this.optimizer, state: this.state });
    await removeOldCheckpoints(this.args.outputDir, this.args.values.saveTotalLimit);
    await this.emit("onSave");
  }

  private async resume(from: true | string): Promise<void> {
    const dir = from === true ? await latestCheckpoint(this.args.outputDir) : from;
    if (!dir) throw new Error(`no checkpoint-N folder in ${this.args.outputDir} to resume from`);
    await loadCheckpoint(dir, { model: this.options.model, optimizer: this.optimizer, state: this.state });
  }

  private stepsPerEpoch(): number {
    const { perDeviceTrainBatchSize, gradientAccumulationSteps } = this.args.values;
    const microbatches = Math.ceil(this.options.train.length / perDeviceTrainBatchSize);
    return Math.max(1, Math.ceil(microbatches / gradientAccumulationSteps));
  }

  private windows(epoch: number, skip: number): AsyncGenerator<Batch[]> {
    const { perDeviceTrainBatchSize, gradientAccumulationSteps } = this.args.values;
    return windows(this.options.train.batches(epoch, perDeviceTrainBatchSize), gradientAccumulationSteps, skip);
  }

  private async log(row: Record<string, number>): Promise<void> {
    this.state.logHistory.push({ ...row, step: this.state.globalStep });
    await this.emit("onLog", row);
  }

  private emit(event: keyof TrainerCallback, row?: LogRow): Promise<void> {
    const context: CallbackContext = { state: this.state, control: this.control };
    return this.callbacks.call(event, context, row);
  }
}
