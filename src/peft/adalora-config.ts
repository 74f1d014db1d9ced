import { z } from "zod";
import { camelCase, OptionError, parseOptions } from "../util/options.ts";
import { type LoraConfig, type LoraConfigOptions, loraConfig, loraSchema } from "./lora-config.ts";

/** Which triplets of a module are in use: PEFT's rank_pattern, by `path.lora_E`. */
export type RankPattern = Readonly<Record<string, readonly boolean[]>>;

const steps = z.number().int().nonnegative({ error: "expected a number of steps, 0 or more" });
const decay = z.number().gt(0).lt(1, { error: "expected a number between 0 and 1" });

/** AdaLoRA's own options. */
export const adaLoraShape = {
  /** Mean rank of the modules in the end. */
  targetR: z.number().int().positive({ error: "expected a rank of at least 1" }).default(8),
  /** Rank of every module at the start. */
  initR: z.number().int().positive({ error: "expected a rank of at least 1" }).default(12),
  /** Steps at the start in which nothing is pruned. */
  tinit: steps.default(0),
  /** Steps at the end in which the ranks stay as they are. */
  tfinal: steps.default(0),
  /** Steps between two allocations. */
  deltaT: z.number().int().positive({ error: "expected a number of steps of at least 1" }).default(1),
  /** Decay of the smoothed importance. */
  beta1: decay.default(0.85),
  /** Decay of its uncertainty. */
  beta2: decay.default(0.85),
  /** Weight in the loss of how far A and B are from orthogonal. */
  orthRegWeight: z.number().nonnegative({ error: "expected a number that is not negative" }).default(0.5),
  /** Optimizer steps of the training; null: the trainer's own number. */
  totalStep: z.number().int().positive({ error: "expected a number of steps of at least 1" }).nullable().default(null),
  /** The ranks that a saved adapter has. */
  rankPattern: z.record(z.string(), z.array(z.boolean())).nullable().default(null),
};

/** What AdaLoRA shares with LoRA. */
const sharedShape = loraSchema.omit({
  r: true,
  rankPattern: true,
  alphaPattern: true,
  useRslora: true,
  useDora: true,
  loftqConfig: true,
  initLoraWeights: true,
  trainableTokenIndices: true,
}).shape;

/** PEFT's AdaLoraConfig, in camelCase. */
export const adaLoraSchema = z.strictObject({
  ...sharedShape,
  ...adaLoraShape,
  /** true: A and B normal with deviation 0.02, E zero; false: all three standard normal (for debugging). */
  initLoraWeights: z.boolean({ error: "AdaLoRA has its own initialisation: expected true or false" }).default(true),
});

/** AdaLoRA's own settings. */
export type AdaLoraSettings = Readonly<Pick<z.output<typeof adaLoraSchema>, keyof typeof adaLoraShape>>;
/** An AdaLoRA configuration, complete and checked (see `adaLoraConfig`). */
export type AdaLoraConfig = Readonly<z.output<typeof adaLoraSchema>> & { readonly peftType: "ADALORA" };
/** What one may write for it: any part, defaults are PEFT's. */
export type AdaLoraConfigOptions = z.input<typeof adaLoraSchema> & { readonly peftType?: "ADALORA" };

/** Options of LoRA that AdaLoRA has no place for; PEFT takes some without effect. */
const NOT_FOR_ADALORA: Readonly<Record<string, readonly unknown[]>> = {
  useDora: [false, null],
  loftqConfig: [null],
  useRslora: [false, null],
  alphaPattern: [null],
  trainableTokenIndices: [null],
};

/**
 * A complete AdaLoRA configuration from options, in camelCase or PEFT's snake_case. Throws OptionError naming the option:
 * unknown, out of range, one of LoRA's that AdaLoRA cannot have, or a schedule that leaves no step to allocate in.
 */
export function adaLoraConfig(
  options: AdaLoraConfigOptions | Readonly<Record<string, unknown>> = {},
  owner = "AdaLoraConfig",
): AdaLoraConfig {
  const own: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options)) {
    const name = camelCase(key);
    if (name === "peftType" || name === "r") continue;
    if (Object.hasOwn(NOT_FOR_ADALORA, name)) {
      if (value === undefined || isEmpty(value) || NOT_FOR_ADALORA[name]!.includes(value)) continue;
      throw new OptionError(`${owner}: AdaLoRA does not support ${key}: leave it out`);
    }
    own[key] = value;
  }
  const config = parseOptions(owner, adaLoraSchema, own);
  if (config.targetR > config.initR) {
    throw new OptionError(
      `${owner}: targetR ${config.targetR} is above initR ${config.initR}: AdaLoRA prunes from initR down to targetR`,
    );
  }
  if (config.totalStep !== null) checkSchedule(config, config.totalStep, owner);
  return { ...config, peftType: "ADALORA" };
}

/** Throws OptionError when the schedule leaves no step between tinit and the last tfinal steps. */
export function checkSchedule(
  { tinit, tfinal }: Pick<AdaLoraSettings, "tinit" | "tfinal">,
  totalStep: number,
  owner: string,
): void {
  if (tinit < totalStep - tfinal) return;
  throw new OptionError(
    `${owner}: tinit ${tinit} and tfinal ${tfinal} leave no step of ${totalStep} to allocate ranks in: decrease them, or train longer`,
  );
}

/** The configuration as the LoRA one it extends (r is initR), and what is AdaLoRA's own. */
export function splitAdaLora(config: AdaLoraConfig, owner: string): { lora: LoraConfig; settings: AdaLoraSettings } {
  const pick = (shape: object): Record<string, unknown> =>
    Object.fromEntries(Object.keys(shape).map((key) => [key, config[key as keyof AdaLoraConfig]]));
  const shared = { ...pick(sharedShape), r: config.initR } as LoraConfigOptions;
  // loraConfig knows two ways of starting; AdaLoRA's own start is kept in the same field.
  const lora = loraConfig({ ...shared, initLoraWeights: config.initLoraWeights }, owner);
  return { lora, settings: pick(adaLoraShape) as unknown as AdaLoraSettings };
}

const isEmpty = (value: unknown): boolean =>
  typeof value === "object" && value !== null && Object.keys(value).length === 0;

/** Whether options ask for AdaLoRA. Throws OptionError for a peftType there is not. */
export function isAdaLora(options: Readonly<Record<string, unknown>>, owner: string): boolean {
  const value = options.peftType ?? options.peft_type;
  if (value === undefined || value === null || value === "LORA") return false;
  if (value === "ADALORA") return true;
  throw new OptionError(`${owner}: peftType: expected "LORA" or "ADALORA", found ${JSON.stringify(value)}`);
}
