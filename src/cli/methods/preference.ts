import { PREFERENCE_ALIASES } from "../../train/preference/config.ts";
import { cpoSchema } from "../../train/preference/cpo-config.ts";
import { dpoSchema } from "../../train/preference/dpo-config.ts";
import {
  CPOConfig,
  CPOTrainer,
  DPOConfig,
  DPOTrainer,
  KTOConfig,
  KTOTrainer,
  ORPOConfig,
  ORPOTrainer,
} from "../../train/preference/index.ts";
import { ktoSchema } from "../../train/preference/kto-config.ts";
import { orpoSchema } from "../../train/preference/orpo-config.ts";
import { type CliMethod, METHOD_DEFAULTS, takenBy } from "./method.ts";

const PAIRS = '{"prompt", "chosen", "rejected"} or {"chosen", "rejected"}, text or messages';
const EVALUATION = ["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"];

export const DPO: CliMethod = {
  name: "dpo",
  heading: "Preferences:",
  description: "train on preferences (DPO and its losses); the reference is the model as it is before",
  rows: PAIRS,
  example: ["--data preferences.jsonl", "--beta 0.1", "--max-steps 100"],
  schema: dpoSchema,
  defaults: METHOD_DEFAULTS,
  aliases: PREFERENCE_ALIASES,
  isForeign: takenBy(DPOConfig),
  evalMetrics: EVALUATION,
  copiesAdapter: (args) => (args as DPOConfig).refAdapterName === null,
  trainer: ({ options, own: _, ...parts }) => new DPOTrainer({ ...parts, args: new DPOConfig(options) }),
};

export const CPO: CliMethod = {
  name: "cpo",
  heading: "Preferences:",
  description: "train on preferences without a reference (CPO; SimPO with --loss-type simpo)",
  rows: PAIRS,
  example: ["--data preferences.jsonl", "--loss-type simpo", "--simpo-gamma 0.5"],
  schema: cpoSchema,
  defaults: METHOD_DEFAULTS,
  aliases: PREFERENCE_ALIASES,
  isForeign: takenBy(CPOConfig),
  evalMetrics: EVALUATION,
  trainer: ({ options, own: _, ...parts }) => new CPOTrainer({ ...parts, args: new CPOConfig(options) }),
};

export const ORPO: CliMethod = {
  name: "orpo",
  heading: "Preferences:",
  description: "train on preferences and chosen answers at once, without a reference (ORPO)",
  rows: PAIRS,
  example: ["--data preferences.jsonl", "--beta 0.1"],
  schema: orpoSchema,
  defaults: METHOD_DEFAULTS,
  aliases: PREFERENCE_ALIASES,
  isForeign: takenBy(ORPOConfig),
  evalMetrics: EVALUATION,
  trainer: ({ options, own: _, ...parts }) => new ORPOTrainer({ ...parts, args: new ORPOConfig(options) }),
};

export const KTO: CliMethod = {
  name: "kto",
  heading: "Preferences:",
  description: "train on single answers that are wanted or not (KTO)",
  rows: '{"prompt", "completion", "label": true or false}, or pairs, which are taken apart',
  example: ["--data answers.jsonl", "--beta 0.1"],
  schema: ktoSchema,
  defaults: METHOD_DEFAULTS,
  aliases: PREFERENCE_ALIASES,
  isForeign: takenBy(KTOConfig),
  evalMetrics: ["eval_loss", "eval_rewards/margins"],
  copiesAdapter: (args) => (args as KTOConfig).refAdapterName === null,
  trainer: ({ options, own: _, ...parts }) => new KTOTrainer({ ...parts, args: new KTOConfig(options) }),
};
