import { storedAs } from "../api/device.ts";
import { loadTokenizer } from "../api/fast-language-model.ts";
import { isAdapterFolder, locateBase, locateModel } from "../api/locate.ts";
import { openSketchDevice } from "../api/sketch-device.ts";
import { sketchModel } from "../api/sketch-model.ts";
import { weightOptions } from "../models/load/weight-options.ts";
import type { CausalLM } from "../models/model.ts";
import { PeftModel } from "../peft/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { TOKENIZER_FILES } from "../tokenizer/tokenizer-files.ts";
import type { MethodSettings } from "./settings/train-settings.ts";
import { adapt } from "./training.ts";

/** Of a model of the hub: what planning needs, and no weights. */
const FILES = ["config.json", "adapter_config.json", "adapter_model.safetensors", ...TOKENIZER_FILES];

/** A model of sizes without contents. Dispose of it. */
export interface Sketch extends Disposable {
  readonly lm: CausalLM;
  readonly tokenizer: Tokenizer;
  /** Bytes there are on the device. */
  readonly memory: number;
  /** Whether an adapter goes on being trained. */
  readonly continues: boolean;
  /** The model with what is to be trained; call once. */
  adapted(defaults?: Readonly<Record<string, unknown>>): Promise<PeftModel | CausalLM>;
}

/** What a training would load, without its weights. */
export async function openSketch(
  name: string,
  settings: Pick<MethodSettings, "model" | "lora">,
  maxSeqLength: number,
): Promise<Sketch> {
  const { revision, dtype, offloadEmbedding } = settings.model;
  const weights = weightOptions("train", settings.model);
  const located = await locateModel(name, { revision, ...(!name.includes(":") && { allowPatterns: FILES }) });
  const adapter = isAdapterFolder(located.path) ? located.path : null;
  const path = adapter ? (await locateBase(adapter)).path : located.path;
  const { backend, memory } = await openSketchDevice(settings.model);
  try {
    const lm = sketchModel(path, backend, {
      dtype: storedAs(backend, dtype, weights),
      ...weights,
      offloadEmbedding,
    });
    lm.maxSeqLength = maxSeqLength;
    return {
      lm,
      tokenizer: await loadTokenizer(path),
      memory,
      continues: adapter !== null || settings.model.adapter !== null,
      adapted: async (defaults) =>
        adapter ? await PeftModel.fromPretrained(lm, adapter, { isTrainable: true }) : adapt(lm, settings, defaults),
      [Symbol.dispose]: () => backend.dispose(),
    };
  } catch (error) {
    backend.dispose();
    throw error;
  }
}
