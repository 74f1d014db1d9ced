import type { Dataset, Row } from "../../data/index.ts";
import { PeftModel } from "../../peft/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { OptionError } from "../../util/options.ts";
import type { TrainingArgumentsOptions } from "../arguments.ts";
import type { LogRow, TrainerCallback } from "../callbacks.ts";
import { Trainer } from "../trainer.ts";
import { trainerFields } from "../trainer-fields.ts";
import { CompletionsLog, printTable } from "./completions-log.ts";
import { PPOConfig, type PPOOptions } from "./ppo-config.ts";
import { ppoLoss } from "./ppo-loss.ts";
import { ppoModels } from "./ppo-model.ts";
import { PPORollouts } from "./ppo-policy.ts";
import { PPOSource } from "./ppo-source.ts";
import { checkedLengths, type PromptRow, promptRows } from "./prompts.ts";
import type { RewardFunction } from "./rewards.ts";
import type { RolloutFunction } from "./rollout-function.ts";

export { PPOConfig, type PPOOptions } from "./ppo-config.ts";
export { type AddValueAdapterOptions, addValueAdapter } from "./ppo-model.ts";

export interface PPOTrainerOptions {
  /** Its adapters are the policy and the value model (`addValueAdapter`), and may be the reward model. */
  readonly model: PeftModel;
  readonly tokenizer?: Tokenizer | undefined;
  /** TRL's name for the tokenizer. */
  readonly processingClass?: Tokenizer | undefined;
  /** Name of the adapter that scores completions, or a function that does. */
  readonly rewardModel: string | RewardFunction;
  /** Rows with a `prompt`, text or messages; a reward function gets the other columns too. */
  readonly trainDataset: Dataset<Row>;
  /** Prompts that samples are shown of. */
  readonly evalDataset?: Dataset<Row> | undefined;
  readonly args?: PPOConfig | (PPOOptions & TrainingArgumentsOptions) | undefined;
  readonly callbacks?: readonly TrainerCallback[] | undefined;
  /** Makes the completions, in place of sampling them from the policy: one a prompt. */
  readonly rolloutFunc?: RolloutFunction | undefined;
}

/** Samples printed at a time, as in TRL. */
const SHOWN = 5;

/**
 * Proximal policy optimization (Schulman et al., 2017; Ziegler et al., 2019) with TRL's arguments, formulas and metrics.
 * Policy, reference, value and reward model are adapters of one frozen base, so that there is one copy of its weights; a
 * step is a rollout with all its updates, in which the learning rate stays.
 * Throws OptionError for settings and adapters that do not fit, FormatError at a row without a prompt.
 */
export class PPOTrainer extends Trainer {
  readonly tokenizer: Tokenizer;
  private readonly rollouts: PPORollouts;
  private readonly batchSize: number;

  constructor(given: PPOTrainerOptions) {
    const options = trainerFields("PPOTrainer", given, { more: ["rewardModel", "rolloutFunc"] });
    const { model, rewardModel, trainDataset, evalDataset, callbacks, rolloutFunc } = options;
    const tokenizer = options.tokenizer ?? options.processingClass;
    if (!tokenizer) throw new OptionError("PPOTrainer: tokenizer is missing (processingClass, in TRL's terms)");
    if (!(model instanceof PeftModel)) {
      throw new OptionError(
        "PPOTrainer: policy, value and reference share a base through adapters: call getPeftModel first",
      );
    }
    const args = options.args instanceof PPOConfig ? options.args : new PPOConfig(options.args);
    if ((args.stopToken === "eos" || args.missingEosPenalty !== null) && tokenizer.eosTokenId === null) {
      throw new OptionError(
        "PPOTrainer: stopToken and missingEosPenalty need an EOS token, which the tokenizer has not",
      );
    }
    const reward = typeof rewardModel === "function" ? rewardModel : null;
    const models = ppoModels(model, args, typeof rewardModel === "string" ? rewardModel : null);
    const promptSettings = { owner: "PPOTrainer", tokenizer, ...args };
    const prompts = promptRows(trainDataset, promptSettings);
    const shown = evalDataset ? promptRows(evalDataset, promptSettings) : [];
    const lm = model.model;
    const maxPositions = checkedLengths("PPOTrainer", [...prompts, ...shown], {
      most: lm.config.maxPositions,
      completion: args.responseLength,
      option: "responseLength",
    });
    const rollouts = new PPORollouts({ lm, tokenizer, args, models, reward, rolloutFunc });
    const episodes = args.totalEpisodes ?? Math.floor(args.numTrainEpochs * prompts.length);
    const total = Math.ceil(episodes / args.batchSize);
    const maxSteps = args.maxSteps > 0 ? args.maxSteps : total;
    super({
      model: models.trainable,
      // The same settings, with the number of steps that follows from the episodes.
      args: Object.assign(Object.create(PPOConfig.prototype) as PPOConfig, args, { maxSteps }),
      train: new PPOSource(prompts, args, rollouts),
      callbacks: [
        { onStepEnd: () => rollouts.finish() },
        ...samplesCallback(rollouts, shown, args, maxSteps),
        ...(callbacks ?? []),
      ],
      computeLoss: ppoLoss({
        ...args,
        temperature: rollouts.temperature,
        policy: models.policy,
        value: models.value,
        statistics: rollouts.statistics,
      }),
      maxPositions,
    });
    this.tokenizer = tokenizer;
    this.rollouts = rollouts;
    this.batchSize = args.batchSize;
    rollouts.attach(
      this.runner,
      () => this.state,
      (event, row) => this.emit(event, row),
    );
  }

  /** Adds what rollouts and updates have measured since the last row. */
  override log(logs: LogRow, speed?: LogRow): Promise<LogRow> {
    const { rollouts, state, batchSize } = this;
    if (!("loss" in logs)) return super.log(logs, speed);
    const row = {
      ...logs,
      num_tokens: rollouts.tokensSeen,
      ...rollouts.metrics.take(),
      lr: logs.learning_rate!,
      episode: state.globalStep * batchSize,
    };
    return super.log(row, speed);
  }

  /** Policy and value adapters, with the tokenizer beside them. */
  override async saveModel(dir: string = this.args.outputDir): Promise<void> {
    await super.saveModel(dir);
    await this.tokenizer.savePretrained(dir);
  }

  override dispose(): void {
    this.rollouts.dispose();
    super.dispose();
  }
}

/** What shows samples now and then: printed, and written as JSON Lines. */
function samplesCallback(
  rollouts: PPORollouts,
  shown: readonly PromptRow[],
  args: PPOConfig,
  maxSteps: number,
): TrainerCallback[] {
  if (args.numSampleGenerations === 0 || shown.length === 0) return [];
  const silent = args.logLevel === "error" || args.logLevel === "critical";
  const every = Math.max(1, Math.floor(maxSteps / args.numSampleGenerations));
  const rows = shown.slice(0, args.perDeviceEvalBatchSize);
  return [
    {
      async onStepEnd({ state }) {
        if ((state.globalStep - 1) % every !== 0) return;
        const table = new CompletionsLog({
          enabled: true,
          most: rows.length,
          toPrint: SHOWN,
          print: silent ? null : printTable,
        });
        for (const row of await rollouts.show(rows)) table.add(row);
        await table.flush(args.outputDir, state.globalStep);
      },
    },
  ];
}
