import { OptionError, parseOptions } from "../util/options.ts";
import { argumentsSchema, type ParsedArguments, type TrainingArgumentsOptions } from "./arguments-schema.ts";
import { FOREIGN_ARGUMENTS, withoutForeign } from "./foreign-options.ts";
import { renamed } from "./option-names.ts";

export { argumentsSchema, isEightBit, OPTIMIZERS, type TrainingArgumentsOptions } from "./arguments-schema.ts";

/** Names that options have had in Hugging Face's releases. */
export const ALIASES: Readonly<Record<string, string>> = {
  evaluationStrategy: "evalStrategy",
  activationCheckpointing: "gradientCheckpointing",
  perGpuTrainBatchSize: "perDeviceTrainBatchSize",
  perGpuEvalBatchSize: "perDeviceEvalBatchSize",
};

/** Settings of a training, checked and with what follows from them filled in. */
export interface ArgumentValues extends Omit<ParsedArguments, "evalSteps" | "reportTo"> {
  /** Steps between evaluations, or below 1 a share of all. */
  readonly evalSteps: number;
  readonly reportTo: readonly ("tensorboard" | "wandb")[];
}

// Every setting is a property of the object, as in Hugging Face's dataclass; they are assigned in the constructor.
const Values = class {} as new () => Readonly<ArgumentValues>;

/**
 * Settings of a training: Hugging Face's TrainingArguments with its names (in camelCase or snake_case), defaults and
 * meaning. Throws OptionError: for an unknown name with the nearest right one, for a wrong value with what would work, for
 * settings that contradict each other.
 */
export class TrainingArguments extends Values {
  constructor(options: TrainingArgumentsOptions | Readonly<Record<string, unknown>> = {}) {
    super();
    const owner = "TrainingArguments";
    const own = withoutForeign(owner, renamed(owner, options as Record<string, unknown>, ALIASES), FOREIGN_ARGUMENTS);
    Object.assign(this, complete(owner, parseOptions(owner, argumentsSchema, own)));
  }
}

/** Fill in what other settings imply, and check settings against each other, as TrainingArguments' __post_init__ does. */
function complete(owner: string, given: ParsedArguments): ArgumentValues {
  const fail = (message: string): never => {
    throw new OptionError(`${owner}: ${message}`);
  };
  const { loggingSteps, evalStrategy, saveStrategy, saveSteps, lrSchedulerType, loadBestModelAtEnd } = given;
  // TrainerState's default where no evaluation goes by steps.
  const evalSteps = given.evalSteps ?? (evalStrategy === "steps" ? loggingSteps : 500);
  const byMetric = lrSchedulerType === "reduce_lr_on_plateau";
  const metricForBestModel = given.metricForBestModel ?? (loadBestModelAtEnd || byMetric ? "loss" : null);
  const greaterIsBetter =
    given.greaterIsBetter ?? (metricForBestModel === null ? null : !metricForBestModel.endsWith("loss"));
  if (given.fp16 && given.bf16) fail("fp16 and bf16 cannot both be true");
  if (byMetric && evalStrategy === "no") {
    fail('lrSchedulerType "reduce_lr_on_plateau" needs evaluations: set evalStrategy to "steps" or "epoch"');
  }
  if (saveStrategy === "best" && evalStrategy === "no") {
    fail('saveStrategy "best" needs evaluations: set evalStrategy to "steps" or "epoch"');
  }
  if (saveStrategy === "best" && metricForBestModel === null) {
    fail('saveStrategy "best" needs metricForBestModel, e.g. "loss"');
  }
  if (given.groupByLength && given.trainSamplingStrategy === "sequential") {
    fail('groupByLength and trainSamplingStrategy "sequential" contradict each other');
  }
  if (loadBestModelAtEnd && saveStrategy !== "best") {
    if (evalStrategy !== saveStrategy) {
      const found = `found "${saveStrategy}" and "${evalStrategy}"`;
      fail(`loadBestModelAtEnd needs the same saveStrategy and evalStrategy, or saveStrategy "best"; ${found}`);
    }
    if (saveStrategy === "steps" && !isMultiple(saveSteps, evalSteps)) {
      fail(`loadBestModelAtEnd needs saveSteps to be a multiple of evalSteps; found ${saveSteps} and ${evalSteps}`);
    }
  }
  const reportTo = [given.reportTo].flat();
  return {
    ...given,
    evalSteps,
    metricForBestModel,
    greaterIsBetter,
    trainSamplingStrategy: given.groupByLength ? "group_by_length" : given.trainSamplingStrategy,
    // "all" is what is there without installing anything.
    reportTo: (["tensorboard", "wandb"] as const).filter(
      (name) => reportTo.includes(name) || (name === "tensorboard" && reportTo.includes("all")),
    ),
  };
}

function isMultiple(saveSteps: number, evalSteps: number): boolean {
  if (saveSteps < 1 !== evalSteps < 1) return false;
  // Shares are decimal fractions: 0.3 is a multiple of 0.1 though the remainder of the doubles is not 0.
  const scale = saveSteps < 1 ? 1e6 : 1;
  return Math.round(saveSteps * scale) % Math.round(evalSteps * scale) === 0;
}

/** Whether rows of the log tell the tokens seen. */
export const countsTokens = ({ includeNumInputTokensSeen: setting }: TrainingArguments): boolean =>
  setting !== "no" && setting !== false;

/** Settings as JSON in Hugging Face's names, for people and for TensorBoard. */
export function argumentsToJson(args: TrainingArguments): string {
  const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const entries = Object.entries(args).map(([name, value]) => [snake(name), value]);
  return `${JSON.stringify(Object.fromEntries(entries), null, 2)}\n`;
}
