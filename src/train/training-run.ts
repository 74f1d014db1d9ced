import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { type Batch, batchWeight } from "../data/collate.ts";
import type { LearningRate } from "../optim/learning-rate.ts";
import { knownOptions, OptionError } from "../util/options.ts";
import { updatesOf, windows } from "./batches.ts";
import { metricValue } from "./best-metric.ts";
import { controlState, type LogRow } from "./callbacks.ts";
import { type Course, courseChanges, type DataPosition, loadCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import {
  checkpointFolder,
  getLastCheckpoint,
  keepOnly,
  removeOldCheckpoints,
  tidyCheckpoints,
} from "./checkpoint-folders.ts";
import { round } from "./evaluation.ts";
import { Interrupt, TrainingInterrupted } from "./interrupt.ts";
import { LossLog } from "./loss-log.ts";
import { parametersBesidesEmbedding } from "./trainable.ts";
import type { Trainer } from "./trainer.ts";

export interface TrainOptions {
  /** A checkpoint folder, or true: the latest of outputDir; the training argument of that name when left out. */
  readonly resumeFromCheckpoint?: boolean | string | null | undefined;
  /** Aborting it finishes the step at hand, saves, and makes train throw TrainingInterrupted. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of `train`, with Hugging Face's spelling too. Throws OptionError at anything else. */
export function trainOptions(given: object): TrainOptions {
  return knownOptions("train", ["resumeFromCheckpoint", "signal"], given);
}

/** What a training returns, as Hugging Face's TrainOutput. */
export interface TrainOutput {
  readonly globalStep: number;
  readonly trainingLoss: number;
  /** The last row of the log, and train_tokens_per_second. */
  readonly metrics: LogRow;
}

/** One call of `Trainer.train`: where it stands in the data, and what it has added up. */
export class TrainingRun {
  private readonly trainer: Trainer;
  private readonly rate: LearningRate;
  private readonly lossLog: LossLog;
  private readonly flopsPerToken: number;
  private position: DataPosition = { epoch: 0, microbatches: 0 };
  private savedStep = -1;
  private started = performance.now();
  /** Steps and tokens of runs before this one. */
  private before = { steps: 0, tokens: 0 };

  constructor(trainer: Trainer) {
    this.trainer = trainer;
    this.rate = trainer.newLearningRate();
    this.lossLog = new LossLog(trainer.args.loggingNanInfFilter);
    this.flopsPerToken = 6 * parametersBesidesEmbedding(trainer.options.model);
  }

  async train(options: TrainOptions): Promise<TrainOutput> {
    const { resumeFromCheckpoint, signal } = trainOptions(options);
    const { trainer } = this;
    const { args, state, control } = trainer;
    await tidyCheckpoints(args.outputDir);
    const from = resumeFromCheckpoint ?? args.resumeFromCheckpoint;
    if (from) await this.resume(from);
    this.before = { steps: state.globalStep, tokens: state.numInputTokensSeen };
    using interrupt = new Interrupt(signal ?? null, (text) => void process.stderr.write(text));
    this.started = performance.now();
    control.shouldTrainingStop = false;
    await trainer.emit("onTrainBegin");
    if (args.evalOnStart && state.globalStep === 0) await trainer.evaluate();
    while (this.position.epoch < state.numTrainEpochs && !control.shouldTrainingStop) await this.epoch(interrupt);
    return this.finish();
  }

  /** What is left of the epoch at hand. */
  private async epoch(interrupt: Interrupt): Promise<void> {
    const { trainer } = this;
    const { args, state, control, steps, options } = trainer;
    const { epoch } = this.position;
    control.shouldEpochStop = false;
    await trainer.emit("onEpochBegin");
    const cut = {
      size: options.train.windowSize ?? args.gradientAccumulationSteps,
      microbatches: steps.microbatchesPerEpoch,
      skip: this.position.microbatches,
    };
    const stops = (): boolean => control.shouldEpochStop || control.shouldTrainingStop;
    if (state.globalStep < state.maxSteps) {
      const batchSize = args.perDeviceTrainBatchSize;
      for await (const window of windows(options.train, { epoch, batchSize, ...cut })) {
        await this.step(window);
        if (interrupt.requested) await this.interrupted();
        if (stops() || state.globalStep >= state.maxSteps) break;
      }
    }
    await trainer.emit("onEpochEnd");
    this.position = { epoch: epoch + 1, microbatches: 0 };
    await this.logEvaluateSave();
    if (interrupt.requested) await this.interrupted();
  }

  private async step(window: readonly Batch[]): Promise<void> {
    const { trainer, lossLog } = this;
    const { args, state, control, steps, runner, optimizer, options } = trainer;
    control.shouldLog = control.shouldEvaluate = control.shouldSave = false;
    await trainer.emit("onStepBegin");
    const rate = this.rate.at(state.globalStep);
    const updates = updatesOf(window);
    // Every microbatch has a number of its own, also when an epoch's last window is short.
    let draw = state.globalStep * (options.train.windowSize ?? args.gradientAccumulationSteps);
    let norm = 0;
    for (const update of updates) {
      const weight = update.reduce((sum, batch) => sum + batchWeight(batch), 0);
      for (const [index, batch] of update.entries()) {
        const seed = Uint32Array.of(args.seed % 2 ** 32, draw++);
        const result = await runner.train(batch, weight > 0 ? 1 / weight : 0, seed);
        lossLog.add({ ...result, loss: result.loss / updates.length });
        state.numInputTokensSeen += batch.numTokens;
        state.totalFlos += this.flopsPerToken * batch.numTokens;
        if (index + 1 < update.length) await trainer.emit("onSubstepEnd");
      }
      await trainer.emit("onPreOptimizerStep");
      if (trainer.method) lossLog.addTerm(await trainer.method.beforeUpdate(state.globalStep));
      norm = await optimizer.update(rate, args.maxGradNorm);
      const row = await trainer.method?.afterUpdate(state.globalStep);
      if (row) await trainer.log(row);
      await trainer.emit("onOptimizerStep");
      if (!Number.isFinite(norm)) this.skipped(norm);
    }
    lossLog.stepDone(rate, norm);
    const { epoch, microbatches } = this.position;
    this.position = { epoch, microbatches: microbatches + window.length };
    state.globalStep++;
    state.epoch = epoch + this.position.microbatches / steps.microbatchesPerEpoch;
    await trainer.emit("onStepEnd");
    await this.logEvaluateSave();
  }

  /** A step without finite gradients: for a loss scaler how it finds its scale, until no scale is small enough. */
  private skipped(norm: number): void {
    const { state, optimizer } = this.trainer;
    const scale = optimizer.lossScaler?.scale ?? 0;
    if (scale >= 1) return;
    const why =
      scale > 0
        ? `, and so it was at a loss scale of ${2 * scale}: activations exceed float16; train in bfloat16 or float32`
        : "";
    const message = `step ${state.globalStep + 1}: the gradient norm is ${norm}; the step was skipped${why}`;
    process.emitWarning(message, "UnslothWarning");
  }

  private async logEvaluateSave(): Promise<void> {
    const { trainer, lossLog } = this;
    const { args, state, control } = trainer;
    if (control.shouldLog && lossLog.steps > 0) {
      const tokens = state.numInputTokensSeen - this.before.tokens;
      const seconds = this.seconds();
      await trainer.log(
        { ...lossLog.take(), num_tokens: state.numInputTokensSeen },
        { train_runtime: round(seconds, 4), train_tokens_per_second: round(tokens / seconds, 3) },
      );
    }
    if (control.shouldEvaluate) {
      const metrics = await trainer.evaluate();
      if (this.rate.watchesMetric) this.rate.observe(metricValue(metrics, args.metricForBestModel!));
      const isBest = this.noteBest(metrics);
      if (args.saveStrategy === "best") control.shouldSave = isBest;
    }
    if (control.shouldSave) await this.save();
  }

  /** Whether an evaluation is the best so far; remembers it. */
  private noteBest(metrics: LogRow): boolean {
    const { args, state } = this.trainer;
    if (args.metricForBestModel === null) return false;
    const value = metricValue(metrics, args.metricForBestModel);
    const worst = args.greaterIsBetter ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
    const best = state.bestMetric ?? worst;
    const isBest = args.greaterIsBetter ? value > best : value < best;
    state.bestMetric = isBest ? value : best;
    if (isBest && args.saveStrategy !== "no") state.bestGlobalStep = state.globalStep;
    return isBest;
  }

  private async save(): Promise<string> {
    const { trainer } = this;
    const { args, state, control, optimizer } = trainer;
    const { outputDir } = args;
    const folder = checkpointFolder(outputDir, state.globalStep);
    if (state.bestGlobalStep !== null) {
      const best = checkpointFolder(outputDir, state.bestGlobalStep);
      if (state.bestGlobalStep === state.globalStep || existsSync(best)) state.bestModelCheckpoint = best;
    }
    await saveCheckpoint(folder, {
      args,
      state,
      callbacks: { ...trainer.callbacks.saveStates(), TrainerControl: controlState(control) },
      optimizer,
      learningRate: this.rate,
      log: this.lossLog,
      position: this.position,
      course: this.course(),
      source: trainer.options.train,
      saveModel: async (partial) => {
        await trainer.saveModel(partial);
        if (!args.saveOnlyModel) await trainer.saveState(partial);
      },
    });
    this.savedStep = state.globalStep;
    await removeOldCheckpoints(outputDir, args.saveTotalLimit, state.bestModelCheckpoint);
    control.shouldSave = false;
    await trainer.emit("onSave");
    return folder;
  }

  private async resume(from: true | string): Promise<void> {
    const { trainer } = this;
    const { args, state, optimizer, options, callbacks } = trainer;
    const folder = from === true ? await getLastCheckpoint(args.outputDir) : from;
    if (!folder) throw new OptionError(`resumeFromCheckpoint: there is no checkpoint-N folder in ${args.outputDir}`);
    const { saved, position, course } = await loadCheckpoint(folder, {
      optimizer,
      learningRate: this.rate,
      log: this.lossLog,
      source: options.train,
      loadModel: (dir) => trainer.loadCheckpoint(dir),
    });
    const { callbacks: states, ...rest } = saved;
    Object.assign(state, rest);
    this.position = position;
    // The folder may have moved since, and its checkpoints with it.
    const best = saved.bestModelCheckpoint && join(args.outputDir, basename(saved.bestModelCheckpoint));
    state.bestModelCheckpoint = best && existsSync(best) ? best : null;
    if (args.restoreCallbackStatesFromCheckpoint) callbacks.restoreStates(states);
    const changes = courseChanges(course, this.course());
    if (changes.length > 0) {
      const message = `${folder} was trained with other settings, so this is not the run that was stopped: ${changes.join("; ")}`;
      process.emitWarning(message, "UnslothWarning");
    }
  }

  private async interrupted(): Promise<never> {
    const { trainer } = this;
    const { globalStep } = trainer.state;
    const folder =
      this.savedStep === globalStep ? checkpointFolder(trainer.args.outputDir, globalStep) : await this.save();
    await trainer.method?.report(trainer.args.outputDir);
    await trainer.emit("onTrainEnd");
    throw new TrainingInterrupted(globalStep, folder);
  }

  private async finish(): Promise<TrainOutput> {
    const { trainer, lossLog, before } = this;
    const { args, state, steps } = trainer;
    const seconds = this.seconds();
    const done = state.globalStep - before.steps;
    const samples = (steps.numTrainSamples * done) / state.maxSteps;
    const row = await trainer.log({
      train_runtime: round(seconds, 4),
      train_samples_per_second: round(samples / seconds, 3),
      train_steps_per_second: round(done / seconds, 3),
      total_flos: state.totalFlos,
      train_loss: lossLog.overall(),
    });
    await trainer.method?.report(args.outputDir);
    if (args.loadBestModelAtEnd && state.bestModelCheckpoint !== null) {
      await trainer.loadCheckpoint(state.bestModelCheckpoint);
      if (args.saveTotalLimit === 1) await keepOnly(args.outputDir, state.bestModelCheckpoint);
    }
    await trainer.method?.end();
    await trainer.emit("onTrainEnd");
    const tokens = state.numInputTokensSeen - before.tokens;
    const metrics = { ...row, train_tokens_per_second: round(tokens / seconds, 3) };
    return { globalStep: state.globalStep, trainingLoss: lossLog.overall(), metrics };
  }

  private seconds(): number {
    return (performance.now() - this.started) / 1000;
  }

  private course(): Course {
    const { args, options, steps } = this.trainer;
    return {
      rows: options.train.length,
      per_device_train_batch_size: args.perDeviceTrainBatchSize,
      gradient_accumulation_steps: args.gradientAccumulationSteps,
      microbatches_per_epoch: steps.microbatchesPerEpoch,
      train_sampling_strategy: args.trainSamplingStrategy,
      seed: args.seed,
      data_seed: args.dataSeed ?? args.seed,
    };
  }
}
