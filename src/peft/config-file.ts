import { FormatError, show } from "../formats/errors.ts";
import type { CausalLM } from "../models/model.ts";
import { compareCodePoints, PythonFloat, pythonJson } from "../util/python-json.ts";
import type { AdaLora } from "./adalora.ts";
import { type AdaLoraSettings, adaLoraConfig, splitAdaLora } from "./adalora-config.ts";
import type { LoraAdapter } from "./adapter.ts";
import { type LoraConfig, loraConfig, loraSchema } from "./lora-config.ts";
import { modelModules } from "./modules.ts";
import { explicitTargets, resolveTargets } from "./targets.ts";
import { withoutUnsupported } from "./unsupported.ts";

/** Every key PEFT 0.21.2 writes for LoRA, with the values that change nothing. */
const DEFAULTS: Readonly<Record<string, unknown>> = {
  alora_invocation_tokens: null,
  alpha_pattern: {},
  arrow_config: null,
  auto_mapping: null,
  base_model_name_or_path: null,
  bias: "none",
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  exclude_modules: null,
  fan_in_fan_out: false,
  inference_mode: true,
  init_lora_weights: true,
  kasa_config: null,
  layer_replication: null,
  layers_pattern: null,
  layers_to_transform: null,
  loftq_config: {},
  lora_alpha: 8,
  lora_bias: false,
  lora_dropout: 0,
  lora_ga_config: null,
  megatron_config: null,
  megatron_core: "megatron.core",
  modules_to_save: null,
  monteclora_config: null,
  peft_type: "LORA",
  peft_version: "0.21.2",
  qalora_group_size: 16,
  r: 8,
  rank_pattern: {},
  revision: null,
  target_modules: null,
  target_parameters: null,
  task_type: null,
  trainable_token_indices: null,
  use_bdlora: null,
  use_dora: false,
  use_qalora: false,
  use_rslora: false,
  velora_config: null,
};

/** AdaLoRA's keys beside those, and where its defaults differ. */
const ADALORA_DEFAULTS: Readonly<Record<string, unknown>> = {
  ...DEFAULTS,
  beta1: 0.85,
  beta2: 0.85,
  deltaT: 1,
  init_r: 12,
  orth_reg_weight: 0.5,
  peft_type: "ADALORA",
  rank_pattern: null,
  target_r: 8,
  tfinal: 0,
  tinit: 0,
  total_step: null,
};

/** Keys that PEFT's AdaLoRA takes over from LoRA and does not read. */
const UNUSED_BY_ADALORA = ["r", "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights"];

/** Keys that say nothing about what a loaded adapter computes. */
const DESCRIPTIVE = [
  "auto_mapping",
  "base_model_name_or_path",
  "inference_mode",
  "megatron_core",
  "peft_type",
  "peft_version",
  "qalora_group_size",
  "revision",
  // How A and B got their first values: PEFT ignores these unless init_lora_weights asks for them.
  "corda_config",
  "eva_config",
  "loftq_config",
  "lora_ga_config",
];

/** First values that leave the base model as it is, so that the saved A and B are all there is to them. */
const HARMLESS_INITIALISATIONS = ["gaussian", "eva", "orthogonal", "mica", "loftq"];

export interface FileConfig {
  /** Of an AdaLoRA adapter, the LoRA configuration it extends. */
  readonly config: LoraConfig;
  /** Of an AdaLoRA adapter, what is its own. */
  readonly settings: AdaLoraSettings | null;
  /** The keys PEFT has, as the file has them. */
  readonly known: Readonly<Record<string, unknown>>;
  readonly warnings: readonly string[];
}

/**
 * The configuration in a parsed adapter_config.json. As in PEFT only peft_type must be there, and unknown keys are
 * dropped with a warning. Throws FormatError or OptionError naming the file and the key.
 */
export function parseConfigFile(
  json: Readonly<Record<string, unknown>>,
  file: string,
  isTrainable: boolean,
): FileConfig {
  const isAdaLora = json.peft_type === "ADALORA";
  if (json.peft_type !== "LORA" && !isAdaLora) {
    const expected = '"LORA" or "ADALORA", the types supported';
    throw new FormatError({ file, field: "peft_type", found: show(json.peft_type), expected });
  }
  const defaults = isAdaLora ? ADALORA_DEFAULTS : DEFAULTS;
  const known: Record<string, unknown> = {};
  const unknown: string[] = [];
  const options: Record<string, unknown> = { inferenceMode: !isTrainable };
  for (const [key, value] of Object.entries(json)) {
    if (!Object.hasOwn(defaults, key)) {
      unknown.push(key);
      continue;
    }
    known[key] = value;
    if (isAdaLora && UNUSED_BY_ADALORA.includes(key)) continue;
    if (!DESCRIPTIVE.includes(key) && !(value === null && defaults[key] !== null)) options[key] = value;
  }
  if (typeof options.init_lora_weights === "string") {
    const initialisation = options.init_lora_weights.toLowerCase();
    if (HARMLESS_INITIALISATIONS.includes(initialisation)) options.init_lora_weights = true;
    if (initialisation.startsWith("pissa_niter_")) {
      throw new FormatError({
        file,
        field: "init_lora_weights",
        found: show(initialisation),
        expected:
          "an initialisation that is no random draw: save it again with PEFT's path_initial_model_for_weight_conversion",
      });
    }
  }
  options.task_type = json.task_type ?? null;
  const warnings =
    unknown.length > 0 ? [`${file}: ignored unknown keys ${unknown.map((key) => show(key)).join(", ")}`] : [];
  if (!isAdaLora) return { config: loraConfig(options, file), settings: null, known, warnings };
  const { lora, settings } = splitAdaLora(adaLoraConfig(withoutUnsupported(file, options), file), file);
  return { config: lora, settings, known, warnings };
}

/** adapter_config.json of an adapter, as PEFT 0.21 writes it. */
export function configFileText(adapter: LoraAdapter): string {
  const { config, model, fileConfig, adalora } = adapter;
  const given = fileConfig?.init_lora_weights;
  const values = {
    ...(adalora ? ADALORA_DEFAULTS : DEFAULTS),
    ...fileConfig,
    ...ownValues(config),
    ...(adalora ? adaLoraValues(adalora, fileConfig) : patternsForFile(adapter)),
    target_modules: sorted(explicitTargets(config)),
    exclude_modules: config.excludeModules === null ? null : sorted(config.excludeModules),
    init_lora_weights: typeof given === "string" && !adapter.start ? given : savedInitialisation(config),
    loftq_config: {},
    lora_dropout: new PythonFloat(config.loraDropout),
    base_model_name_or_path: fileConfig?.base_model_name_or_path ?? model.nameOrPath,
    auto_mapping: config.taskType === null ? (fileConfig?.auto_mapping ?? autoMapping(model)) : null,
    inference_mode: true,
  };
  return pythonJson(adapter.start ? { ...values, ...doubled(adapter) } : values);
}

/** Ranks and alphas of A and B with their first values beside them: twice the rank, the scale as it was. */
function doubled(adapter: LoraAdapter): Record<string, unknown> {
  const { r, loraAlpha, useRslora } = adapter.config;
  const { rank_pattern, alpha_pattern } = patternsForFile(adapter);
  const factor = useRslora ? Math.SQRT2 : 2;
  const times = (patterns: Readonly<Record<string, number>>, by: number) =>
    Object.fromEntries(Object.entries(patterns).map(([key, value]) => [key, by * value]));
  return {
    r: 2 * r,
    lora_alpha: factor * loraAlpha,
    rank_pattern: times(rank_pattern!, 2),
    alpha_pattern: times(alpha_pattern!, factor),
  };
}

function ownValues(config: LoraConfig): Record<string, unknown> {
  const own: Record<string, unknown> = {};
  for (const key of Object.keys(loraSchema.shape)) {
    const name = snakeCase(key);
    if (Object.hasOwn(DEFAULTS, name)) own[name] = config[key as keyof LoraConfig];
  }
  return own;
}

/** AdaLoRA's own keys. What it does not read stays as the file had it. */
function adaLoraValues(adalora: AdaLora, fileConfig: LoraAdapter["fileConfig"]): Record<string, unknown> {
  const { settings } = adalora;
  const unused = Object.fromEntries(UNUSED_BY_ADALORA.map((key) => [key, fileConfig?.[key] ?? ADALORA_DEFAULTS[key]]));
  return {
    ...unused,
    init_r: settings.initR,
    target_r: settings.targetR,
    tinit: settings.tinit,
    tfinal: settings.tfinal,
    deltaT: settings.deltaT,
    beta1: new PythonFloat(settings.beta1),
    beta2: new PythonFloat(settings.beta2),
    orth_reg_weight: new PythonFloat(settings.orthRegWeight),
    total_step: adalora.totalStepForFile,
    rank_pattern: adalora.rankPattern(),
  };
}

/** Loading must not start from the base weight again: the tensors are all there is to a saved adapter. */
function savedInitialisation({ initLoraWeights }: LoraConfig): unknown {
  return typeof initLoraWeights !== "string" || initLoraWeights === "gaussian" || initLoraWeights === "orthogonal"
    ? initLoraWeights
    : true;
}

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

const sorted = (names: string | readonly string[]): string | string[] =>
  typeof names === "string" ? names : [...names].sort(compareCodePoints);

/**
 * rank_pattern and alpha_pattern for a file. Their first match counts, and a file has its keys sorted: where that would
 * change a module's rank or alpha, each module is listed by its path instead.
 */
function patternsForFile({ config, model, targets }: LoraAdapter): Record<string, Readonly<Record<string, number>>> {
  const { rankPattern, alphaPattern } = config;
  const inOrder = (patterns: Readonly<Record<string, number>>) =>
    Object.fromEntries(Object.entries(patterns).sort(([a], [b]) => compareCodePoints(a, b)));
  const asRead = { ...config, rankPattern: inOrder(rankPattern), alphaPattern: inOrder(alphaPattern) };
  const read = resolveTargets(modelModules(model.config), asRead, { strict: false, owner: "LoraConfig" }).targets;
  if (read.every(({ r, alpha }, i) => r === targets[i]!.r && alpha === targets[i]!.alpha)) {
    return { rank_pattern: rankPattern, alpha_pattern: alphaPattern };
  }
  return {
    rank_pattern: Object.fromEntries(targets.map(({ path, r }) => [path, r])),
    alpha_pattern: Object.fromEntries(targets.map(({ path, alpha }) => [path, alpha])),
  };
}

/** What PEFT notes of the model's class where there is no task type to go by. */
function autoMapping({ config, hfConfig }: CausalLM): Record<string, unknown> {
  const { architectures } = hfConfig;
  return {
    base_model_class: Array.isArray(architectures) ? architectures[0] : null,
    parent_library: `transformers.models.${config.family}.modeling_${config.family}`,
  };
}
