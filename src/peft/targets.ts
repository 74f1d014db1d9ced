import { show } from "../formats/errors.ts";
import { LAYER_LINEARS } from "../models/parameters.ts";
import { nearest } from "../util/nearest.ts";
import { OptionError } from "../util/options.ts";
import { CLASSIFIERS, isAllLinear, type LoraConfig } from "./lora-config.ts";
import { canBeTarget, type ModelModule, targetNames } from "./modules.ts";
import { fullMatch, isSuffix, matchNames, patternKey } from "./patterns.ts";

/** PEFT's choice for every family here, where targetModules is left out. */
const DEFAULT_TARGETS = ["q_proj", "v_proj"];

/** One module with a low-rank update. */
export interface LoraTarget {
  readonly path: string;
  readonly kind: "linear" | "embedding";
  /** [out, in] of a linear module's weight, [vocab, hidden] of an embedding. */
  readonly shape: readonly [number, number];
  readonly r: number;
  readonly alpha: number;
  /** alpha / r, or alpha / √r. */
  readonly scale: number;
}

/** What a configuration means for a model. */
export interface Resolution {
  readonly targets: readonly LoraTarget[];
  /** Modules trained in full. */
  readonly saved: readonly ModelModule[];
  readonly warnings: readonly string[];
}

export interface ResolveOptions {
  /** A name that matches nothing is an error; else, as in PEFT, only matching nothing at all is. */
  readonly strict: boolean;
  /** For messages: what the configuration is called, or its file. */
  readonly owner: string;
}

/**
 * The modules that a configuration puts updates on and those it trains in full, chosen by PEFT's rules. Throws
 * OptionError, listing the modules there are, when a name or pattern fits none, or one that no update can be put on.
 */
export function resolveTargets(
  modules: readonly ModelModule[],
  config: LoraConfig,
  { strict, owner }: ResolveOptions,
): Resolution {
  const warnings: string[] = [];
  const complain = (message: string): void => {
    if (strict) throw new OptionError(`${owner}: ${message}`);
    warnings.push(message);
  };
  const saved = savedModules(modules, config, complain);
  const chosen = chooseTargets(modules, config, owner, complain);
  const ranks = patternValues(chosen, config.rankPattern, owner, "rankPattern", complain);
  const alphas = patternValues(chosen, config.alphaPattern, owner, "alphaPattern", complain);
  const targets = chosen.map(({ path, kind, shape }, i): LoraTarget => {
    const holder = saved.find((module) => module.parameters.some((spec) => spec.name === `${path}.weight`));
    if (holder) {
      throw new OptionError(
        `${owner}: ${path} cannot both have an update and be trained in full, as part of ${holder.path} (modulesToSave)`,
      );
    }
    const r = ranks[i] ?? config.r;
    const alpha = alphas[i] ?? config.loraAlpha;
    const scale = alpha / (config.useRslora ? Math.sqrt(r) : r);
    const on = kind === "embedding" ? "embedding" : "linear";
    return { path, kind: on, shape: shape as [number, number], r, alpha, scale };
  });
  return { targets, saved, warnings };
}

/** `targetModules` with its defaults and shorthand written out, as it goes into files. */
export function explicitTargets(config: LoraConfig): string | readonly string[] {
  const { targetModules } = config;
  if (targetModules === null) return DEFAULT_TARGETS;
  if (typeof targetModules === "string") return isAllLinear(targetModules) ? LAYER_LINEARS : targetModules;
  return targetModules;
}

type Complain = (message: string) => void;

/** PEFT matches the end of the path, not whole parts of it: "norm" means input_layernorm too. */
function savedModules(modules: readonly ModelModule[], config: LoraConfig, complain: Complain): ModelModule[] {
  const names = config.modulesToSave ?? [];
  if (config.taskType === "SEQ_CLS" && !modules.some(({ kind }) => kind === "score"))
    complain('taskType "SEQ_CLS" needs a model with a score head: addScoreHead(model) first');
  for (const name of names) {
    if (config.taskType === "SEQ_CLS" && CLASSIFIERS.includes(name)) continue;
    if (modules.some(({ path }) => path.endsWith(name))) continue;
    const known = [...new Set(modules.map(({ path }) => path.slice(path.lastIndexOf(".") + 1)))];
    complain(`modulesToSave: no module ends with ${show(name)}${hint(name, known)}`);
  }
  return modules.filter(({ path }) => names.some((name) => path.endsWith(name)));
}

function chooseTargets(
  modules: readonly ModelModule[],
  config: LoraConfig,
  owner: string,
  complain: Complain,
): ModelModule[] {
  const wanted = explicitTargets(config);
  const paths = modules.map(({ path }) => path);
  const matched = matchPaths(paths, wanted, `${owner}: targetModules`);
  const excluded = matchPaths(paths, config.excludeModules ?? [], `${owner}: excludeModules`);
  const layers = inLayers(paths, wanted, config, owner);
  const known = targetNames(modules);
  if (typeof wanted !== "string") {
    for (const name of wanted) {
      if (!paths.some((path) => isSuffix(path, name)))
        complain(`targetModules: the model has no module ${show(name)}${hint(name, known)}`);
    }
  }
  const chosen = modules.filter(({ path }, i) => matched[i] && !excluded[i] && layers[i] && !isSaved(path, config));
  const wrong = chosen.find((module) => !canBeTarget(module));
  if (wrong) {
    throw new OptionError(
      `${owner}: targetModules ${show(wanted)} takes ${wrong.path}, which is neither a linear module nor an embedding; those there are: ${known.join(", ")}`,
    );
  }
  if (chosen.length === 0) {
    const { excludeModules, layersToTransform, modulesToSave } = config;
    const narrowed = Object.entries({ excludeModules, layersToTransform, modulesToSave }).filter(([, value]) => value);
    const limits = narrowed.map(([key, value]) => `, ${key} ${show(value)}`).join("");
    throw new OptionError(
      `${owner}: targetModules ${show(wanted)}${limits} leaves no module to train; modules there are: ${known.join(", ")}`,
    );
  }
  return chosen;
}

function matchPaths(paths: readonly string[], wanted: string | readonly string[], field: string): boolean[] {
  if (typeof wanted === "string") return matchNames([fullMatch(wanted, field)], paths, field)[0]!;
  return paths.map((path) => wanted.some((name) => isSuffix(path, name)));
}

/** Trained in full, itself or a module around it; then it gets no update. */
function isSaved(path: string, config: LoraConfig): boolean {
  return (config.modulesToSave ?? []).some((name) => `.${path}.`.includes(`.${name}.`));
}

/** Which modules layersToTransform leaves. PEFT applies it to names given by their last parts, not to whole paths. */
function inLayers(
  paths: readonly string[],
  wanted: string | readonly string[],
  config: LoraConfig,
  owner: string,
): boolean[] {
  const { layersToTransform, layersPattern } = config;
  const layers = typeof layersToTransform === "number" ? [layersToTransform] : (layersToTransform ?? []);
  if (layers.length === 0) return paths.map(() => true);
  const lists = typeof layersPattern === "string" ? [layersPattern] : (layersPattern ?? []);
  // The first number in a path is its layer's; before it comes the list of layers, below some other module.
  const numbered = paths.map((path) => /^(.*?)\.(\d+)\./.exec(`${path}.`));
  const holders = [...new Set(numbered.map((match) => match?.[1] ?? ""))];
  const field = `${owner}: layersPattern`;
  const rows = matchNames(
    lists.map((list) => patternKey(list, field)),
    holders,
    field,
  );
  const isList = (holder: string): boolean =>
    lists.length === 0 ? holder.includes(".") : rows.some((row) => row[holders.indexOf(holder)]);
  return paths.map((path, i) => {
    if (wanted.includes(path)) return true;
    const [, holder = "", index] = numbered[i] ?? [];
    return index !== undefined && isList(holder) && layers.includes(Number(index));
  });
}

/** For each target the value of the first pattern that matches it. */
function patternValues(
  targets: readonly ModelModule[],
  patterns: Readonly<Record<string, number>>,
  owner: string,
  option: string,
  complain: Complain,
): (number | undefined)[] {
  const keys = Object.keys(patterns);
  const field = `${owner}: ${option}`;
  const matches = matchNames(
    keys.map((key) => patternKey(key, field)),
    targets.map(({ path }) => path),
    field,
  );
  keys.forEach((key, k) => {
    if (!matches[k]!.some(Boolean)) complain(`${option}: ${show(key)} matches no targeted module`);
  });
  return targets.map((_, t) => {
    const first = keys.findIndex((_, k) => matches[k]![t]);
    return first < 0 ? undefined : patterns[keys[first]!];
  });
}

function hint(name: string, known: readonly string[]): string {
  const close = nearest(name.slice(name.lastIndexOf(".") + 1), known);
  return `${close ? `; did you mean "${close}"?` : ""} (those there are: ${known.join(", ")})`;
}
