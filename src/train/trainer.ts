import type { Backend } from "../backends/backend.ts";
import { LearningRate } from "../optim/learning-rate.ts";
import { Optimizer } from "../optim/optimizer.ts";
import { warmupSteps } from "../optim/schedule.ts";
import { OptionError } from "../util/options.ts";
import { countsTokens, isEightBit, TrainingArguments, type TrainingArgumentsOptions } from "./arguments.ts";
import { type BatchSource, isBatchSource } from "./batches.ts";
import {
  type CallbackContext,
  CallbackList,
  type CallbackOrClass,
  type LogRow,
  newControl,
  type TrainerCallback,
  type TrainerControl,
} from "./callbacks.ts";
import { DefaultFlowCallback } from "./default-flow.ts";
import { type Evaluation, evaluateSource } from "./evaluation.ts";
import type { ComputeLoss } from "./loss.ts";
import type { TrainingMethod } from "./method.ts";
import { withRates } from "./parameter-groups.ts";
import type { ComputeMetrics, EvalPrediction, PreprocessLogits } from "./predictions.ts";
import { printers, reporters } from "./reporting.ts";
import type { TrainerState } from "./state.ts";
import { StepRunner } from "./step.ts";
import { type TrainableModel, trainingPolicy } from "./trainable.ts";
import { TrainingRun, type TrainOptions, type TrainOutput } from "./training-run.ts";
import { intervalSteps, type TrainingSteps, trainingSteps } from "./training-steps.ts";

/** One data set, or several by name: their metrics are called eval_<name>_loss and so on. */
export type EvalSources = BatchSource | Readonly<Record<string, BatchSource>>;

export interface TrainerOptions {
  readonly model: TrainableModel;
  readonly args?: TrainingArguments | TrainingArgumentsOptions | undefined;
  readonly train: BatchSource;
  readonly evaluation?: EvalSources | undefined;
  readonly callbacks?: readonly TrainerCallback[] | undefined;
  /** Replaces next-token cross-entropy; traced like it. */
  readonly computeLoss?: ComputeLoss | undefined;
  /** Numbers from the predictions of an evaluation, to log with its loss. */
  readonly computeMetrics?: ComputeMetrics | undefined;
  /** What computeMetrics and predict get of the logits; all of them when left out. */
  readonly preprocessLogitsForMetrics?: PreprocessLogits | undefined;
  readonly maxPositions: number;
  /** Let the planner move activations to host memory. */
  readonly offload?: boolean | undefined;
  /** Most bytes of host memory for that; null or left out: four fifths of what this process can still take. */
  readonly hostBytes?: number | null | undefined;
}

/** Throws OptionError where fp16 or bf16 asks for another type of activations than the model was loaded for. */
function checkPrecision({ fp16, bf16 }: TrainingArguments, { computeDtype = "f32", name }: Backend): void {
  const wanted = fp16 ? "f16" : bf16 ? "bf16" : null;
  // Everywhere else float32 is what there is, and Hugging Face's settings ask for what a GPU should do.
  if (name !== "cuda" || wanted === null || wanted === computeDtype) return;
  const [option, dtype] = fp16 ? ["fp16", "float16"] : ["bf16", "bfloat16"];
  throw new OptionError(
    `TrainingArguments: ${option} is true but the model computes in ${computeDtype}: leave ${option} out, or load the model with dtype: "${dtype}"`,
  );
}

/** Predictions of a data set, as Hugging Face's PredictionOutput. */
export interface PredictionOutput extends EvalPrediction {
  readonly metrics: LogRow;
}

/**
 * The training loop: windows of microbatches, one optimizer step each, with the loss normalised by the trained tokens of
 * the whole window. Everything random is drawn from (seed, step), so a resumed run repeats an uninterrupted one.
 */
export class Trainer {
  readonly args: TrainingArguments;
  readonly runner: StepRunner;
  readonly optimizer: Optimizer;
  /** What the adapter's method does beside gradient descent (AdaLoRA); null: nothing. */
  readonly method: TrainingMethod | null;
  readonly control: TrainerControl = newControl();
  steps: TrainingSteps;
  options: TrainerOptions;
  readonly callbacks: CallbackList;
  /** Of the training at hand, or the last one. */
  state: TrainerState;

  constructor(options: TrainerOptions) {
    this.options = options;
    this.args = options.args instanceof TrainingArguments ? options.args : new TrainingArguments(options.args);
    const { args } = this;
    const { model } = options;
    if (model.trainables.length === 0)
      throw new OptionError("nothing to train: no parameter of the model is trainable");
    checkPrecision(args, model.lm.backend);
    if (args.evalStrategy !== "no" && !options.evaluation) {
      throw new OptionError(`evalStrategy is "${args.evalStrategy}" but no evalDataset was given`);
    }
    this.steps = trainingSteps(options.train.length, args, options.train.windowSize);
    // Bad settings show here, not when training begins.
    this.newLearningRate();
    this.optimizer = new Optimizer(model.lm.backend, withRates(model.trainables, args), {
      beta1: args.adamBeta1,
      beta2: args.adamBeta2,
      epsilon: args.adamEpsilon,
      weightDecay: args.weightDecay,
      eightBit: isEightBit(args.optim),
    });
    let method: TrainingMethod | null = null;
    try {
      method = model.method?.(this.optimizer) ?? null;
      this.method = method;
      this.method?.begin(this.steps.maxSteps);
      this.runner = new StepRunner({
        model: model.lm,
        optimizer: this.optimizer,
        computeLoss: options.computeLoss,
        policy: trainingPolicy(model, args.gradientCheckpointing),
        offload: options.offload,
        hostBytes: options.hostBytes ?? undefined,
        maxPositions: options.maxPositions,
        labelSmoothing: args.labelSmoothingFactor,
        neftuneNoiseAlpha: args.neftuneNoiseAlpha,
      });
      this.state = this.newState();
      this.callbacks = new CallbackList([
        new DefaultFlowCallback(),
        ...reporters(args),
        ...(options.callbacks ?? []),
        ...printers(args, () => this.runner.memory()),
      ]);
      this.callbacks.initEnd(this.context());
    } catch (error) {
      method?.dispose();
      this.optimizer.dispose();
      throw error;
    }
  }

  /**
   * Train from the start, or from a checkpoint: `true` takes the latest of outputDir, a path that one. SIGINT or SIGTERM
   * (or `signal`) finishes the step at hand, saves a checkpoint and throws TrainingInterrupted.
   */
  async train(options: TrainOptions = {}): Promise<TrainOutput> {
    this.state = this.newState();
    return new TrainingRun(this).train(options);
  }

  /**
   * Loss and metrics of the evaluation data, or of other data; they are logged. Several data sets give the metrics of all.
   * @param prefix what the metrics' names begin with
   */
  async evaluate(source?: EvalSources, prefix = "eval"): Promise<LogRow> {
    const sources = source ?? this.options.evaluation;
    if (!sources) throw new OptionError("no evalDataset was given");
    if (!isBatchSource(sources)) {
      let all: LogRow = {};
      for (const [name, one] of Object.entries(sources))
        all = { ...all, ...(await this.evaluate(one, `${prefix}_${name}`)) };
      return all;
    }
    const { metrics, tokenMetrics } = await this.runThrough(sources, prefix, false);
    const tokens = { [`${prefix}_num_tokens`]: this.state.numInputTokensSeen };
    const row = await this.log({ ...metrics, ...tokenMetrics, ...tokens });
    this.control.shouldEvaluate = false;
    await this.emit("onEvaluate", row);
    return row;
  }

  /** Predictions, labels and metrics of a data set, as evaluate computes them but kept; nothing is logged. */
  async predict(source: BatchSource, prefix = "test"): Promise<PredictionOutput> {
    const { metrics, tokenMetrics, prediction } = await this.runThrough(source, prefix, true);
    const row = { ...metrics, ...tokenMetrics };
    await this.emit("onPredict", row);
    return { ...prediction, metrics: row };
  }

  /** Write the trained adapter or model. */
  async saveModel(dir: string = this.args.outputDir): Promise<void> {
    await this.options.model.save(dir);
  }

  /** Write what a checkpoint needs beside the model for training to go on. */
  async saveState(dir: string): Promise<void> {
    await this.method?.save(dir);
  }

  /** Read the trained tensors back, and what its method keeps, from a checkpoint. Throws FormatError. */
  async loadCheckpoint(dir: string): Promise<void> {
    await this.options.model.load(dir);
    await this.method?.load(dir);
  }

  addCallback(callback: TrainerCallback): void {
    this.callbacks.callbacks.push(callback);
  }

  /** Take out a callback, or the first of a class; gives it, or null if there is none. */
  removeCallback(callback: CallbackOrClass): TrainerCallback | null {
    return this.callbacks.remove(callback);
  }

  /** Add a row to the history and tell the callbacks; gives the row with what was added to it. */
  async log(logs: LogRow, speed: LogRow = {}): Promise<LogRow> {
    const { state, args } = this;
    const row = {
      ...logs,
      epoch: state.epoch,
      ...(countsTokens(args) && { num_input_tokens_seen: state.numInputTokensSeen, ...speed }),
    };
    state.logHistory.push({ ...row, step: state.globalStep });
    this.control.shouldLog = false;
    await this.emit("onLog", row);
    return row;
  }

  emit(event: Parameters<CallbackList["call"]>[0], row?: LogRow): Promise<void> {
    return this.callbacks.call(event, this.context(), row);
  }

  /** The learning rate of a training from its start. */
  newLearningRate(): LearningRate {
    const { args, steps } = this;
    return new LearningRate({
      type: args.lrSchedulerType,
      learningRate: args.learningRate,
      warmupSteps: warmupSteps(args, steps.maxSteps),
      totalSteps: steps.maxSteps,
      settings: args.lrSchedulerKwargs ?? {},
      greaterIsBetter: args.greaterIsBetter ?? false,
    });
  }

  dispose(): void {
    this.runner.dispose();
    this.method?.dispose();
    this.optimizer.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Other data from now on; before the first step. */
  protected replaceData(train: BatchSource, evaluation: EvalSources | undefined): void {
    this.options = { ...this.options, train, evaluation };
    this.steps = trainingSteps(train.length, this.args, train.windowSize);
    this.method?.begin(this.steps.maxSteps);
    this.state = this.newState();
  }

  private runThrough(source: BatchSource, prefix: string, keepPredictions: boolean): Promise<Evaluation> {
    const { args, options } = this;
    return evaluateSource(source, {
      runner: this.runner,
      batchSize: args.perDeviceEvalBatchSize,
      computeMetrics: args.predictionLossOnly ? null : (options.computeMetrics ?? null),
      preprocess: options.preprocessLogitsForMetrics ?? null,
      batchEvalMetrics: args.batchEvalMetrics,
      include: args.includeForMetrics,
      keepPredictions: keepPredictions && !args.predictionLossOnly,
      prefix,
      onBatch: () => this.emit("onPredictionStep"),
    });
  }

  private context(): CallbackContext {
    const { args, state, control, optimizer, options } = this;
    return { args, state, control, optimizer, model: options.model.lm };
  }

  private newState(): TrainerState {
    const { args, steps } = this;
    const { maxSteps, numTrainEpochs } = steps;
    return {
      epoch: 0,
      globalStep: 0,
      maxSteps,
      numTrainEpochs,
      trainBatchSize: args.perDeviceTrainBatchSize,
      loggingSteps: intervalSteps(args.loggingSteps, maxSteps),
      saveSteps: intervalSteps(args.saveSteps, maxSteps),
      evalSteps: intervalSteps(args.evalSteps, maxSteps),
      numInputTokensSeen: 0,
      totalFlos: 0,
      logHistory: [],
      bestMetric: null,
      bestGlobalStep: null,
      bestModelCheckpoint: null,
    };
  }
}
