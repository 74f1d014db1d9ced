import { ConfigError, type DecoderConfig, type HfConfig, hfConfigSchema } from "./config.ts";
import { gemma2 } from "./families/gemma2.ts";
import { llama } from "./families/llama.ts";
import { mistral } from "./families/mistral.ts";
import { qwen2 } from "./families/qwen2.ts";
import { qwen3 } from "./families/qwen3.ts";

/** One model family: how its config.json becomes the decoder's configuration. */
export interface Family {
  /** config.json's model_type. */
  readonly modelType: string;
  /** config.json's architectures entry. */
  readonly architecture: string;
  /** How llama.cpp's converter stores it; null when it goes by another family's name there. */
  readonly gguf: {
    readonly architecture: string;
    /** q and k rows are interleaved for llama.cpp's rotation and have to be put back. */
    readonly permutedRope: boolean;
    /** Norm weights have one added. */
    readonly normsPlusOne: boolean;
  } | null;
  decoder(config: HfConfig, file: string): DecoderConfig;
}

export const FAMILIES: readonly Family[] = [llama, mistral, qwen2, qwen3, gemma2];

/** The family of a config.json, or a ConfigError that lists the known ones. */
export function familyOf(modelType: string, file: string): Family {
  const family = FAMILIES.find((f) => f.modelType === modelType);
  if (!family) {
    const known = FAMILIES.map((f) => f.modelType).join(", ");
    throw new ConfigError(`${file}: model_type "${modelType}" is not supported; supported are ${known}`);
  }
  return family;
}

/** Read a parsed config.json. Throws ConfigError naming file, field and what was found. */
export function parseConfig(json: unknown, file: string): { family: Family; config: HfConfig; decoder: DecoderConfig } {
  const modelType =
    json !== null && typeof json === "object" ? (json as Record<string, unknown>).model_type : undefined;
  if (typeof modelType !== "string") throw new ConfigError(`${file}: model_type is missing`);
  const family = familyOf(modelType, file);
  const parsed = hfConfigSchema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new ConfigError(`${file}: ${issue.path.join(".") || "the file"}: ${issue.message}`);
  }
  return { family, config: parsed.data, decoder: asClassifier(parsed.data, family.decoder(parsed.data, file)) };
}

/** A classifier has a score head, and no language head of its own. transformers' default is two labels. */
function asClassifier({ architectures, num_labels, id2label }: HfConfig, decoder: DecoderConfig): DecoderConfig {
  if (!architectures?.some((name) => name.endsWith("ForSequenceClassification"))) return decoder;
  return { ...decoder, tiedHead: true, numLabels: num_labels ?? (id2label ? Object.keys(id2label).length : 2) };
}
