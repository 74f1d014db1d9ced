import { z } from "zod";
import { camelCase, OptionError, parseOptions } from "../util/options.ts";
import { type Initialisation, initialisationMessage, isInitialisation, withoutUnsupported } from "./unsupported.ts";

/** More names or patterns than any model has modules: a file that would take minutes to match is refused. */
const MANY = 10_000;

const name = z.string().min(1, { error: "expected a module name that is not empty" });
const names = z.array(name).max(MANY, { error: `expected at most ${MANY} names` });
const layer = z.number().int().nonnegative({ error: "expected a layer's index, from 0" });
const tokens = z
  .array(z.number().int().nonnegative({ error: "expected a token id, from 0" }))
  .max(MANY, { error: `expected at most ${MANY} tokens: train embed_tokens in full (modulesToSave)` })
  .refine((ids) => new Set(ids).size === ids.length, { error: "expected every token once" });
const rank = z.number().int().positive({ error: "expected a rank of at least 1" });
const alpha = z.number().nonnegative({ error: "expected a number that is not negative" });
const patterns = (value: typeof rank | typeof alpha) =>
  z
    .record(z.string(), value)
    .refine((record) => Object.keys(record).length <= MANY, { error: `expected at most ${MANY} patterns` })
    .default({});

const isNothing = (value: unknown): boolean =>
  value === undefined || value === null || (typeof value === "object" && Object.keys(value).length === 0);
const camelKeys = (value: unknown): unknown =>
  typeof value === "object" && value !== null
    ? Object.fromEntries(Object.entries(value).map(([key, one]) => [camelCase(key), one]))
    : value;

/** The fields of PEFT's LoraConfig that this library has, in its spelling; PEFT's snake_case is accepted too. */
export const loraSchema = z.strictObject({
  /** Rank of the update. */
  r: rank.default(8),
  /** Names of linear or embedding modules by their last path parts; or one regular expression for whole paths (Python's
   * `re.fullmatch`); or "all-linear", all linear modules but the head. null: PEFT's choice, q_proj and v_proj. */
  targetModules: z
    .union([name, names.min(1)], {
      error: 'expected a list of module names, a regular expression, or "all-linear"',
    })
    .nullable()
    .default(null),
  /** Left out of targetModules: names, or one regular expression. */
  excludeModules: z
    .union([name, names], { error: "expected a list of module names, or a regular expression" })
    .nullable()
    .default(null),
  /** The update is scaled by loraAlpha / r. */
  loraAlpha: alpha.default(8),
  /** Dropout on the update's input, while training. */
  loraDropout: z.number().min(0).lt(1, { error: "expected a share from 0 to below 1" }).default(0),
  /** Biases trained beside the update: none, all of the model's, or those of the targeted modules. */
  bias: z.enum(["none", "all", "lora_only"], { error: 'expected "none", "all" or "lora_only"' }).default("none"),
  /** Scale by loraAlpha / √r (Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023). */
  useRslora: z.boolean().default(false),
  /** Only these layers; targetModules must then be names. */
  layersToTransform: z
    .union([layer, z.array(layer).max(MANY)], { error: "expected a layer's index, or a list of them" })
    .nullable()
    .default(null),
  /** Name of the list of layers ("layers"), where it is not simply the first numbered part of the path. */
  layersPattern: z.union([name, names], { error: "expected a name, or a list of them" }).nullable().default(null),
  /** Modules trained in full, as copies that are saved with the adapter; by the end of their path, as in PEFT. */
  modulesToSave: names.nullable().default(null),
  /**
   * Tokens whose rows of the embedding table (and of a head tied to it) are trained, the others left alone; or lists of them
   * for "embed_tokens" and "lm_head". For tokens that were added to a tokenizer.
   */
  trainableTokenIndices: z
    .union([tokens, z.record(z.string(), tokens)], { error: "expected a list of token ids, or lists by module" })
    .nullable()
    .default(null)
    .transform((value) => (isNothing(value) ? null : value)),
  /** Ranks of single modules: by the last parts of the path, or a regular expression for them. First match counts. */
  rankPattern: patterns(rank),
  /** As rankPattern, for loraAlpha. */
  alphaPattern: patterns(alpha),
  /**
   * true: A uniform, B zero; "gaussian": A normal with deviation 1/r, B zero; false: both random (for debugging);
   * "orthogonal": both random with B·A = 0; "pissa", "pissa_niter_N", "olora" and "loftq" start from the base weight and
   * change it (see base-init.ts).
   */
  initLoraWeights: z
    .custom<Initialisation>(isInitialisation, { error: ({ input }) => initialisationMessage(input) })
    .default(true)
    .transform((value) => (typeof value === "string" ? (value.toLowerCase() as Initialisation) : value)),
  /** Bits and rounds of initLoraWeights "loftq". */
  loftqConfig: z
    .preprocess(
      (value) => (isNothing(value) ? null : camelKeys(value)),
      z
        .strictObject({
          loftqBits: z.literal(4, { error: "only 4 bits (NF4) are supported" }).default(4),
          loftqIter: z.number().int().positive({ error: "expected a number of rounds of at least 1" }).default(1),
        })
        .nullable(),
    )
    .default(null),
  /** DoRA (Liu et al. 2024): train the lengths of the weight's rows apart from their directions. */
  useDora: z.boolean().default(false),
  /** Seed of the initial values. */
  randomState: z.number().int().nonnegative({ error: "expected an integer that is not negative" }).default(3407),
  /** Keep a tied head and embedding table one when either is in modulesToSave. */
  ensureWeightTying: z.boolean().default(false),
  /** SEQ_CLS trains the score head too (modulesToSave "classifier" and "score", as PEFT adds them). */
  taskType: z
    .enum(["CAUSAL_LM", "SEQ_CLS"], { error: 'only "CAUSAL_LM" and "SEQ_CLS" are supported' })
    .nullable()
    .default("CAUSAL_LM"),
  /** Do not train it. */
  inferenceMode: z.boolean().default(false),
});

/** A LoRA configuration, complete and checked (see `loraConfig`). */
export type LoraConfig = Readonly<z.output<typeof loraSchema>>;
/** What one may write for it: any part, defaults are PEFT's. */
export type LoraConfigOptions = z.input<typeof loraSchema>;

/**
 * A complete configuration from options, in camelCase or PEFT's snake_case.
 * Throws OptionError naming the option: unknown (with the nearest right name), out of range, not supported yet, or in a
 * combination that cannot be.
 */
export function loraConfig(
  options: LoraConfigOptions | Readonly<Record<string, unknown>> = {},
  owner = "LoraConfig",
): LoraConfig {
  const config = parseOptions(owner, loraSchema, withoutUnsupported(owner, options as Record<string, unknown>));
  const { targetModules, layersToTransform, layersPattern } = config;
  if (typeof targetModules === "string" && !isAllLinear(targetModules)) {
    for (const [key, value] of Object.entries({ layersToTransform, layersPattern })) {
      if (value !== null) {
        throw new OptionError(
          `${owner}: ${key} needs targetModules to be a list of names; put the layers into the regular expression "${targetModules}"`,
        );
      }
    }
  }
  if (layersPattern !== null && layersPattern.length > 0 && layersToTransform === null) {
    throw new OptionError(`${owner}: layersPattern needs layersToTransform, the layers to take`);
  }
  if (config.initLoraWeights === "loftq" && config.loftqConfig === null) {
    throw new OptionError(`${owner}: initLoraWeights "loftq" needs loftqConfig, e.g. { loftqBits: 4, loftqIter: 1 }`);
  }
  if (config.initLoraWeights !== "loftq" && config.loftqConfig !== null) {
    throw new OptionError(`${owner}: loftqConfig goes with initLoraWeights "loftq" only: set that, or leave it out`);
  }
  return config.taskType === "SEQ_CLS" ? withClassifier(config) : config;
}

/** As PEFT's PeftModelForSequenceClassification: whichever of the two names the head has, it is trained in full. */
const withClassifier = (config: LoraConfig): LoraConfig => ({
  ...config,
  modulesToSave: [...new Set([...(config.modulesToSave ?? []), ...CLASSIFIERS])],
});

/** Names of classification heads. */
export const CLASSIFIERS: readonly string[] = ["classifier", "score"];

/** PEFT's shorthand, in any case of letters. */
export function isAllLinear(targetModules: string): boolean {
  return targetModules.toLowerCase() === "all-linear";
}
