import { Dataset, type Row } from "../../data/index.ts";
import type { ModelAdapter } from "../../models/adapter.ts";
import type { CausalLM } from "../../models/model.ts";
import { PeftModel } from "../../peft/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { OptionError } from "../../util/options.ts";
import type { TrainingArgumentsOptions } from "../arguments.ts";
import { type BatchSource, isBatchSource } from "../batches.ts";
import type { LogRow, TrainerCallback } from "../callbacks.ts";
import { InitialAdapter } from "../initial-adapter.ts";
import { asTrainable } from "../trainable.ts";
import { type EvalSources, Trainer } from "../trainer.ts";
import { trainerFields } from "../trainer-fields.ts";
import { type TrainOptions, type TrainOutput, trainOptions } from "../training-run.ts";
import { CompletionsLog, printTable } from "./completions-log.ts";
import { GRPOConfig, type GRPOOptions } from "./grpo-config.ts";
import { grpoLoss } from "./grpo-loss.ts";
import { type GRPOReference, Policy } from "./grpo-policy.ts";
import { GRPOEvalSource, GRPOSource } from "./grpo-source.ts";
import { checkedLengths, type PromptRow, promptRows } from "./prompts.ts";
import { type RewardFunction, rewardNames } from "./rewards.ts";
import type { RolloutFunction } from "./rollout-function.ts";

export { GRPO_LOSS_TYPES, GRPOConfig, type GRPOLossType, type GRPOOptions } from "./grpo-config.ts";
export type { RewardArguments, RewardFunction, TextOrMessages } from "./rewards.ts";
export { RewardError } from "./rewards.ts";
export type { RolloutFunction } from "./rollout-function.ts";

/** Rows with a `prompt` (text or messages), or several sets by name; other columns go to the reward functions. */
export type PromptDatasets = Dataset<Row> | Readonly<Record<string, Dataset<Row>>>;

export interface GRPOTrainerOptions {
  readonly model: PeftModel | CausalLM;
  readonly tokenizer?: Tokenizer | undefined;
  /** TRL's name for the tokenizer. */
  readonly processingClass?: Tokenizer | undefined;
  /** One or several; their weighted sum is the reward. */
  readonly rewardFuncs: RewardFunction | readonly RewardFunction[];
  readonly trainDataset: Dataset<Row>;
  readonly evalDataset?: PromptDatasets | undefined;
  /** "base": the reference is the model without its adapter, whatever that has learnt before. */
  readonly refModel?: "base" | null | undefined;
  readonly args?: GRPOConfig | (GRPOOptions & TrainingArgumentsOptions) | undefined;
  readonly callbacks?: readonly TrainerCallback[] | undefined;
  /** Makes the completions, in place of sampling them from the model. */
  readonly rolloutFunc?: RolloutFunction | undefined;
}

/**
 * Group relative policy optimization (Shao et al., "DeepSeekMath", 2024): several completions of each prompt are sampled
 * and scored by reward functions; those better than their group become likelier. TRL's GRPOTrainer: its arguments, losses
 * and metrics. The reference model of the KL term is the model as it is before training, with its adapter where that has an
 * effect; or another adapter (`refAdapterName`); or the model without any (`refModel: "base"`).
 * Throws OptionError for settings, FormatError at a row without a prompt, RewardError when a reward function fails.
 */
export class GRPOTrainer extends Trainer {
  readonly tokenizer: Tokenizer;
  private readonly policy: Policy;
  private readonly initial: InitialAdapter | null;
  private readonly toEvalSource: (data: Dataset<Row>) => BatchSource;

  constructor(given: GRPOTrainerOptions) {
    const options = trainerFields("GRPOTrainer", given, { more: ["rewardFuncs", "refModel", "rolloutFunc"] });
    const { model, rewardFuncs, trainDataset, evalDataset, callbacks, rolloutFunc, refModel = null } = options;
    const tokenizer = options.tokenizer ?? options.processingClass;
    if (!tokenizer) throw new OptionError("GRPOTrainer: tokenizer is missing (processingClass, in TRL's terms)");
    const args = options.args instanceof GRPOConfig ? options.args : new GRPOConfig(options.args);
    const rewards = [rewardFuncs].flat();
    const names = rewardNames("GRPOTrainer", rewards);
    const weights = args.rewardWeights ?? names.map(() => 1);
    if (weights.length !== names.length) {
      throw new OptionError(`GRPOTrainer: ${weights.length} rewardWeights for ${names.length} reward functions`);
    }
    if (args.beta !== 0 && !(model instanceof PeftModel)) {
      throw new OptionError(
        "GRPOTrainer: beta needs a reference model, which is the model with the adapter it began with: call getPeftModel first, or set beta to 0",
      );
    }
    const reference = referenceOf(model, args, refModel);
    const lm = model instanceof PeftModel ? model.model : model;
    const promptSettings = { owner: "GRPOTrainer", tokenizer, ...args };
    const read = (data: Dataset<Row>): PromptRow[] => promptRows(data, promptSettings);
    const prompts = read(trainDataset);
    const limits = {
      most: lm.config.maxPositions,
      completion: args.maxCompletionLength,
      option: "maxCompletionLength",
    };
    const maxPositions = Math.max(
      checkedLengths("GRPOTrainer", prompts, limits),
      ...datasets(evalDataset).map((data) => checkedLengths("GRPOTrainer", read(data), limits)),
    );
    const silent = args.logLevel === "error" || args.logLevel === "critical";
    const completions = new CompletionsLog({
      enabled: args.logCompletions,
      most: args.generationBatchSize,
      toPrint: args.numCompletionsToPrint,
      print: silent ? null : printTable,
    });
    const policy = new Policy({ lm, tokenizer, args, rewards, names, weights, rolloutFunc, reference, completions });
    const evalGenerations = { seed: args.seed, numGenerations: args.numGenerationsEval ?? args.numGenerations };
    const toEvalSource = (data: Dataset<Row>): BatchSource => {
      const held = read(data);
      const needed = checkedLengths("GRPOTrainer", held, limits);
      if (needed > maxPositions) {
        throw new OptionError(
          `GRPOTrainer: evaluation prompts have up to ${needed - args.maxCompletionLength} tokens, more than those of ` +
            "training, which memory is planned for: set maxPromptLength",
        );
      }
      return new GRPOEvalSource(held, evalGenerations, policy);
    };
    super({
      model: asTrainable(model),
      args,
      train: new GRPOSource(prompts, { ...args, shuffle: args.shuffleDataset }, policy),
      evaluation: evalDataset && evalSources(evalDataset, toEvalSource),
      callbacks: [{ onStepEnd: () => policy.stepDone() }, ...(callbacks ?? [])],
      computeLoss: grpoLoss({
        ...args,
        usesOld: policy.usesOld,
        onEntropy: (entropy, batch) => policy.observe(entropy, batch),
      }),
      maxPositions,
    });
    this.tokenizer = tokenizer;
    this.policy = policy;
    this.initial = reference instanceof InitialAdapter ? reference : null;
    this.toEvalSource = toEvalSource;
    policy.attach(
      this.runner,
      () => this.state,
      (event, row) => this.emit(event, row),
    );
  }

  /** As Trainer's; the adapter is first copied for the reference, where that is the model as it is now. */
  override async train(options: TrainOptions = {}): Promise<TrainOutput> {
    const checked = trainOptions(options);
    await this.beginReference(checked);
    return super.train(checked);
  }

  /** What train() does first: the adapter is copied, where that is the reference. Memory counts the copy from then on. */
  async beginReference(options: TrainOptions = {}): Promise<void> {
    await this.initial?.begin(options, this.args, () => this.runner.dispose());
  }

  /** As Trainer's, for rows with prompts: completions are sampled and scored, and the rewards logged with the loss. */
  override evaluate(data?: PromptDatasets | EvalSources, prefix?: string): Promise<LogRow> {
    return super.evaluate(data && evalSources(data, this.toEvalSource), prefix);
  }

  /** Adds what rollouts have measured since the last row. */
  override async log(logs: LogRow, speed?: LogRow): Promise<LogRow> {
    const { policy, state, args } = this;
    const training = "loss" in logs || "train_loss" in logs;
    const prefix = training ? "" : `${evalPrefix(logs)}_`;
    const taken = (training ? policy.metrics : policy.evalMetrics).take();
    const named = Object.fromEntries(Object.entries(taken).map(([name, value]) => [prefix + name, value]));
    const counts = "train_loss" in logs ? {} : { [`${prefix}num_tokens`]: policy.tokensSeen };
    const row = await super.log({ ...logs, ...counts, ...named }, speed);
    await policy.completions.flush(args.outputDir, state.globalStep);
    return row;
  }

  /** The adapter or model, with the tokenizer beside it. */
  override async saveModel(dir: string = this.args.outputDir): Promise<void> {
    await super.saveModel(dir);
    await this.tokenizer.savePretrained(dir);
  }

  override async saveState(dir: string): Promise<void> {
    await super.saveState(dir);
    await this.initial?.save(dir);
  }

  override dispose(): void {
    this.policy.dispose();
    super.dispose();
    this.initial?.dispose();
  }
}

/** What the names of an evaluation's numbers begin with. */
const evalPrefix = (logs: LogRow): string =>
  Object.keys(logs)
    .find((key) => key.endsWith("_loss") && `${key.slice(0, -"_loss".length)}_runtime` in logs)
    ?.slice(0, -"_loss".length) ?? "eval";

function referenceOf(
  model: PeftModel | CausalLM,
  { beta, refAdapterName: name }: GRPOConfig,
  refModel: "base" | null,
): GRPOReference {
  if (refModel !== null && refModel !== "base") {
    throw new OptionError('GRPOTrainer: refModel is not a model here, but "base" for the model without its adapter');
  }
  if (refModel !== null && name !== null) {
    throw new OptionError("GRPOTrainer: give refModel or refAdapterName, not both");
  }
  if (name === null) {
    const own = beta !== 0 && refModel === null && model instanceof PeftModel;
    return own ? new InitialAdapter(model.adapter) : { adapter: null };
  }
  const adapters = model instanceof PeftModel ? model.adapters : new Map<string, ModelAdapter>();
  const adapter = adapters.get(name);
  if (!adapter) {
    const found = adapters.size > 0 ? [...adapters.keys()].join(", ") : "none";
    throw new OptionError(`GRPOTrainer: refAdapterName "${name}": the model has no such adapter; it has ${found}`);
  }
  if (adapter === (model as PeftModel).adapter) {
    throw new OptionError(`GRPOTrainer: refAdapterName "${name}": that adapter is the one being trained`);
  }
  return { adapter };
}

const datasets = (data: PromptDatasets | undefined): Dataset<Row>[] =>
  data === undefined ? [] : data instanceof Dataset ? [data] : Object.values(data);

function evalSources(data: PromptDatasets | EvalSources, toSource: (data: Dataset<Row>) => BatchSource): EvalSources {
  if (isBatchSource(data)) return data;
  if (data instanceof Dataset) return toSource(data);
  const entries = Object.entries(data as Readonly<Record<string, Dataset<Row> | BatchSource>>);
  return Object.fromEntries(entries.map(([name, one]) => [name, isBatchSource(one) ? one : toSource(one)]));
}
