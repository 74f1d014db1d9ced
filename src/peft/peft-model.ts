import { join } from "node:path";
import { CausalLM } from "../models/model.ts";
import type { Trainable } from "../optim/optimizer.ts";
import { OptionError } from "../util/options.ts";
import type { LoraAdapter, ParameterCount } from "./adapter.ts";
import { type LoadAdapterOptions, readAdapter, type SaveAdapterOptions, saveAdapter } from "./adapter-files.ts";
import { createLora } from "./attach.ts";
import type { LoraConfigOptions } from "./lora-config.ts";
import { type Merge, type MergeOptions, type MergeReport, mergeLora } from "./merge.ts";

/** Which activations training recomputes; "unsloth": only what has to be, by the memory there is. */
export type GradientCheckpointing = boolean | "unsloth";

/** PEFT's name for an adapter that was not given one; it is saved in the folder itself, others in subfolders. */
const DEFAULT_NAME = "default";

/**
 * A model with its adapters, of which one at a time is in use. Owns both: `dispose` frees the model too; `unload` and
 * `mergeAndUnload` give the model back. Programs traced before an adapter is switched, merged or taken off compute what
 * they did then: trace them again.
 */
export class PeftModel {
  readonly model: CausalLM;
  readonly gradientCheckpointing: GradientCheckpointing;
  private readonly byName = new Map<string, LoraAdapter>();
  private active: string;
  private merged: Merge | null = null;

  constructor(
    model: CausalLM,
    adapter: LoraAdapter,
    options: { adapterName?: string; gradientCheckpointing?: GradientCheckpointing } = {},
  ) {
    if (model.adapter && model.adapter !== adapter) {
      throw new OptionError("the model already has an adapter: merge it, or dispose of it, first");
    }
    this.model = model;
    this.gradientCheckpointing = options.gradientCheckpointing ?? "unsloth";
    this.active = checkedName(options.adapterName ?? DEFAULT_NAME);
    this.byName.set(this.active, adapter);
    model.adapter = adapter;
  }

  /** Loads an adapter that PEFT or `savePretrained` wrote onto a model. Throws as `loadAdapter` does. */
  static async fromPretrained(
    model: CausalLM,
    dir: string,
    options: LoadAdapterOptions & { adapterName?: string; gradientCheckpointing?: GradientCheckpointing } = {},
  ): Promise<PeftModel> {
    checkBaseModel("PeftModel.fromPretrained", model);
    if (typeof dir !== "string") throw new OptionError("PeftModel.fromPretrained: the adapter's folder is missing");
    if (options.adapterName !== undefined) checkedName(options.adapterName);
    return new PeftModel(model, await readAdapter(model, dir, options), options);
  }

  /** The adapter in use, or that would be, were it not disabled or merged. */
  get adapter(): LoraAdapter {
    return this.byName.get(this.active)!;
  }

  get activeAdapter(): string {
    return this.active;
  }

  get adapters(): ReadonlyMap<string, LoraAdapter> {
    return this.byName;
  }

  get isMerged(): boolean {
    return this.merged !== null;
  }

  /** What the adapter in use found odd when it was made or loaded. */
  get warnings(): readonly string[] {
    return this.adapter.warnings;
  }

  /** Adds a new adapter beside the others, without using it. */
  async addAdapter(name: string, config: LoraConfigOptions | Readonly<Record<string, unknown>>): Promise<LoraAdapter> {
    this.checkNewName(name);
    return this.add(name, await createLora(this.model, config));
  }

  /** Loads an adapter beside the others, without using it. */
  async loadAdapter(dir: string, name: string, options: LoadAdapterOptions = {}): Promise<LoraAdapter> {
    this.checkNewName(name);
    return this.add(name, await readAdapter(this.model, dir, options));
  }

  /** Uses another adapter. */
  setAdapter(name: string): void {
    this.checkNotMerged("setAdapter");
    if (!this.byName.has(name)) throw this.unknown(name);
    this.active = name;
    this.model.adapter = this.adapter;
  }

  /** Frees an adapter that is not in use. */
  deleteAdapter(name: string): void {
    const adapter = this.byName.get(name);
    if (!adapter) throw this.unknown(name);
    if (name === this.active)
      throw new OptionError(`adapter "${name}" is in use: setAdapter another before deleting it`);
    adapter.dispose();
    this.byName.delete(name);
  }

  /** Runs something on the base model alone; the adapter is back in use afterwards, also after an error. */
  async disableAdapter<T>(body: () => T | Promise<T>): Promise<T> {
    this.checkNotMerged("disableAdapter");
    const { adapter } = this.model;
    this.model.adapter = adapter?.base ?? null;
    try {
      return await body();
    } finally {
      this.model.adapter = adapter;
    }
  }

  /** Writes every adapter's files as PEFT does: "default" into the folder, others into subfolders by their names. */
  async savePretrained(dir: string, options: SaveAdapterOptions = {}): Promise<void> {
    if (typeof dir !== "string") throw new OptionError("savePretrained: the folder to write is missing");
    this.checkNotMerged("savePretrained");
    for (const [name, adapter] of this.byName) {
      await saveAdapter(adapter, name === DEFAULT_NAME ? dir : join(dir, name), options);
    }
  }

  /** Makes the adapter in use part of the weights, keeping what it replaces (a second copy of those) to go back. */
  async mergeAdapter(options: MergeOptions = {}): Promise<MergeReport> {
    this.checkNotMerged("mergeAdapter");
    this.merged = await mergeLora(this.adapter, { ...options, keepOriginals: true });
    this.model.adapter = null;
    return this.merged.report;
  }

  /** Undoes `mergeAdapter`: every byte as it was. */
  unmergeAdapter(): void {
    if (!this.merged) throw new OptionError("unmergeAdapter: no adapter is merged");
    this.merged.undo();
    this.merged = null;
    this.model.adapter = this.adapter;
  }

  /** Makes the adapter in use part of the weights for good and returns the model; all adapters are freed. */
  async mergeAndUnload(options: MergeOptions = {}): Promise<CausalLM> {
    const merge = this.merged ?? (await mergeLora(this.adapter, { ...options, keepOriginals: false }));
    merge.discard();
    this.merged = null;
    return this.release();
  }

  /** Returns the base model; all adapters are freed. */
  unload(): CausalLM {
    this.checkNotMerged("unload");
    return this.release();
  }

  /** What training changes: of the adapter in use. */
  trainable(): Trainable[] {
    return this.adapter.trainable();
  }

  /** As PEFT's `get_nb_trainable_parameters`, for the adapter in use. */
  parameterCount(): ParameterCount {
    return this.adapter.parameterCount();
  }

  /** Prints the line PEFT prints. */
  printTrainableParameters(print: (line: string) => void = console.log): void {
    const { trainable, all } = this.parameterCount();
    const grouped = (n: number): string => n.toLocaleString("en-US");
    const percent = ((100 * trainable) / all).toFixed(4);
    print(`trainable params: ${grouped(trainable)} || all params: ${grouped(all)} || trainable%: ${percent}`);
  }

  dispose(): void {
    this.merged?.discard();
    this.merged = null;
    this.release().dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  private add(name: string, adapter: LoraAdapter): LoraAdapter {
    this.byName.set(name, adapter);
    return adapter;
  }

  private release(): CausalLM {
    for (const adapter of this.byName.values()) adapter.dispose();
    this.model.adapter = null;
    return this.model;
  }

  private checkNewName(name: string): void {
    this.checkNotMerged("a new adapter");
    if (this.byName.has(name)) throw new OptionError(`there is already an adapter named "${name}"`);
    checkedName(name);
  }

  private checkNotMerged(action: string): void {
    if (this.merged) throw new OptionError(`${action}: the adapter is merged; unmergeAdapter first`);
  }

  private unknown(name: string): OptionError {
    return new OptionError(`there is no adapter named "${name}"; there are ${[...this.byName.keys()].join(", ")}`);
  }
}

/** Throws OptionError, in the name of `owner`, for what is passed in place of a model loaded, and a model that has an adapter. */
export function checkBaseModel(owner: string, model: unknown): void {
  if (model instanceof PeftModel) {
    throw new OptionError(
      `${owner}: the model already has an adapter: merge it, or dispose of it, first; its loadAdapter and addAdapter put others beside it`,
    );
  }
  if (model instanceof CausalLM) return;
  const what = typeof model === "object" && model !== null ? model : {};
  const hint =
    "then" in what
      ? "it is a Promise: await it first"
      : "model" in what
        ? "take { model, tokenizer } out of what fromPretrained gives"
        : "the first argument is the model that FastLanguageModel.fromPretrained gives";
  throw new OptionError(`${owner}: expected a model: ${hint}`);
}

/** An adapter's name, which becomes a folder's. Throws OptionError. */
export function checkedName(name: string): string {
  if (/^[\w-][\w.-]*$/.test(name)) return name;
  throw new OptionError(`adapter name "${name}": expected letters, digits, "_", "-" and "." only`);
}
