import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { Backend } from "../backends/backend.ts";
import { openGguf } from "../formats/gguf.ts";
import type { LoadProgress } from "../models/load/fill.ts";
import { loadModel } from "../models/load/load.ts";
import { weightOptions } from "../models/load/weight-options.ts";
import type { CausalLM } from "../models/model.ts";
import { type GetPeftModelOptions, getPeftModel, PeftModel } from "../peft/index.ts";
import { tokenizerFromGguf } from "../tokenizer/gguf-tokenizer.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import { withoutForeign } from "../train/foreign-options.ts";
import { renamed } from "../train/option-names.ts";
import { OptionError, parseOptions } from "../util/options.ts";
import { DEVICES, type DeviceOptions, openDevice, storedAs } from "./device.ts";
import { FOREIGN_LOADING } from "./foreign-options.ts";
import { isAdapterFolder, type LocateOptions, locateBase, locateModel } from "./locate.ts";

const schema = z.strictObject({
  /**
   * A Hugging Face folder, a .gguf file, a folder with an adapter (its base model is loaded with it), or the id of one of
   * these on the Hugging Face hub: organisation/name, or organisation/name:file for a GGUF file.
   */
  modelName: z.string().min(1),
  /** Longest sequence to train on. */
  maxSeqLength: z.number().int().positive().default(2048),
  /**
   * How weights that are not quantised are kept and, on a GPU, what activations are computed in. null: on a GPU bfloat16
   * (float16 below compute capability 8.0), on a CPU as the checkpoint has them; a CPU always computes in float32.
   */
  dtype: z
    .enum(["float32", "bfloat16", "float16"], { error: 'expected "float32", "bfloat16", "float16" or null' })
    .nullable()
    .default(null),
  /** Quantise linear layers to NF4 while loading. Default true, unless another way to load is asked for. */
  loadIn4bit: z.boolean().optional(),
  /** Quantise linear layers to 8 bits while loading. */
  loadIn8bit: z.boolean().default(false),
  /** Keep linear layers in 16 bits: the same as loadIn4bit: false. */
  loadIn16bit: z.boolean().default(false),
  /** Train all weights (in float32) rather than an adapter. */
  fullFinetuning: z.boolean().default(false),
  /** Where to compute: "auto" is an NVIDIA GPU where one can be used (docs/cuda.md), else the CPU. */
  device: z.enum(DEVICES).default("auto"),
  /** Threads of the CPU; all when left out. With device "auto" they ask for the CPU. */
  threads: z.number().int().positive().optional(),
  /** Multiply frozen layers, but the first and the last, in 8 bits (e4m3) on a GPU of compute capability 8.9 and up. */
  fp8: z.boolean().default(false),
  /**
   * Keep the input embeddings in host memory, for a GPU that is short of its own: it reads the rows a batch needs over the bus.
   * Not for models whose output head is the same table.
   */
  offloadEmbedding: z.boolean().default(false),
  /** Branch, tag or commit of a model of the hub. */
  revision: z.string().min(1).optional(),
  /** Access token for the hub; HF_TOKEN when left out, null: none. */
  token: z.string().nullable().optional(),
  /** Hugging Face's cache; HF_HUB_CACHE when left out. */
  cacheDir: z.string().min(1).optional(),
  /** Use what is in the cache, contact nothing. */
  localFilesOnly: z.boolean().optional(),
});

export interface FromPretrainedOptions extends z.input<typeof schema> {
  /** Where to put the model; a backend of its own on `device` when left out. */
  readonly backend?: Backend;
  readonly onProgress?: (progress: LoadProgress) => void;
  readonly onDevice?: DeviceOptions["onDevice"];
  /** Told how far a download from the hub is; when left out, a line on stderr shows it. */
  readonly onDownload?: LocateOptions["onDownload"];
}

/** The model and what turns text into its tokens. */
export interface Loaded<M> {
  readonly model: M;
  readonly tokenizer: Tokenizer;
}

/** Unsloth's entry point. */
export const FastLanguageModel = {
  /**
   * Load a model, in 4 bits unless told otherwise, and its tokenizer. A folder with adapter_config.json gives a PeftModel,
   * anything else a CausalLM. Throws HubError, FormatError, ConfigError or MemoryPlanError saying what is wrong and what
   * would work.
   */
  async fromPretrained(
    options: FromPretrainedOptions | Readonly<Record<string, unknown>>,
  ): Promise<Loaded<CausalLM & PeftModel>> {
    // A caller knows which of the two the folder holds; the type lets it use either without a cast.
    return (await load(options)) as Loaded<CausalLM & PeftModel>;
  },

  /** Put a new LoRA adapter on a model, with Unsloth's defaults. */
  getPeftModel(
    model: CausalLM,
    options: GetPeftModelOptions | Readonly<Record<string, unknown>> = {},
  ): Promise<PeftModel> {
    return getPeftModel(model, options);
  },

  /** Unsloth's switch to inference. Programs are planned for what they do, so there is nothing to switch: the model is returned. */
  forInference<M>(model: M): M {
    return model;
  },

  /** Unsloth's switch back to training; see forInference. */
  forTraining<M>(model: M): M {
    return model;
  },
};

async function load(
  given: FromPretrainedOptions | Readonly<Record<string, unknown>>,
): Promise<Loaded<CausalLM | PeftModel>> {
  if (typeof given !== "object" || given === null) {
    const found = JSON.stringify(given);
    throw new OptionError(`fromPretrained: expected an object, { modelName: ${found ?? "…"} }, found ${found}`);
  }
  const { backend: ownBackend, onProgress, onDownload, onDevice, ...rest } = given as FromPretrainedOptions;
  const options = parseOptions(
    "fromPretrained",
    schema,
    withoutForeign("fromPretrained", renamed("fromPretrained", rest, {}), FOREIGN_LOADING),
  );
  const weights = weightOptions("fromPretrained", options);
  const { revision, token, cacheDir, localFilesOnly: offline } = options;
  const hub = { revision, token, cacheDir, offline, onDownload };
  const located = await locateModel(options.modelName, hub);
  const adapter = isAdapterFolder(located.path) ? located.path : null;
  const base = adapter ? await locateBase(adapter, hub) : located;
  const backend = ownBackend ?? (await openDevice({ ...options, onDevice }));
  try {
    const model = await loadModel({
      path: base.path,
      nameOrPath: base.nameOrPath,
      backend,
      dtype: storedAs(backend, options.dtype, weights),
      ...weights,
      offloadEmbedding: options.offloadEmbedding,
      ...(onProgress && { onProgress }),
    });
    model.maxSeqLength = options.maxSeqLength;
    const ownTokenizer = adapter !== null && existsSync(join(adapter, "tokenizer.json"));
    const tokenizer = await loadTokenizer(ownTokenizer ? adapter : base.path);
    return {
      model: adapter ? await PeftModel.fromPretrained(model, adapter, { isTrainable: true }) : model,
      tokenizer,
    };
  } catch (error) {
    if (!ownBackend) backend.dispose();
    throw error;
  }
}

/** The tokenizer of a model folder or GGUF file. */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  if (statSync(path).isDirectory()) return Tokenizer.fromFolder(path);
  using file = openGguf(path);
  return tokenizerFromGguf(file.metadata, path);
}
