import { z } from "zod";
import type { TrainingArgumentsOptions } from "../arguments.ts";
import { configClass } from "../config-class.ts";
import { activationShape, splitConfig } from "../config-options.ts";
import { type ForeignOptions, ROWS_FOREIGN } from "../foreign-options.ts";

/** What reward modelling adds to TrainingArguments (TRL's RewardConfig). */
export const rewardSchema = z.strictObject({
  maxLength: z
    .number()
    .int()
    .positive()
    .nullable()
    .default(1024)
    .describe("tokens of an answer with its prompt; pairs with a longer one are left out and counted; null: no limit"),
  centerRewardsCoefficient: z
    .number()
    .nullable()
    .default(null)
    .describe("weight of the squared sum of a pair's rewards, which keeps their mean at zero; 0.01 is a good value"),
  disableDropout: z.boolean().default(true).describe("train without the adapter's dropout"),
  ...activationShape,
});
export type RewardOptions = z.input<typeof rewardSchema>;
export type RewardValues = z.output<typeof rewardSchema>;

/** TRL's options that steer nothing here. */
const FOREIGN: ForeignOptions = {
  ...ROWS_FOREIGN,
  chatTemplatePath: { because: "set the template on the tokenizer", only: [null] },
  eosToken: { because: "the tokenizer says which it is", only: [null] },
};

/** Where TRL's defaults are not TrainingArguments'. */
const DEFAULTS: TrainingArgumentsOptions = { learningRate: 1e-4, loggingSteps: 10 };

const SHAPE = { owner: "RewardConfig", schema: rewardSchema, foreign: FOREIGN, defaults: DEFAULTS };

/** TRL's RewardConfig: TrainingArguments, with learningRate 1e-4 and loggingSteps 10 by default, and the above in one. */
export class RewardConfig extends configClass<RewardOptions, RewardValues>((options) => splitConfig(SHAPE, options)) {}
