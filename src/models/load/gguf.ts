import { FormatError, show } from "../../formats/errors.ts";
import { type GgufFile, openGguf } from "../../formats/gguf.ts";
import type { DecoderConfig } from "../config.ts";
import { type Family, parseConfig } from "../family.ts";
import { configFromGguf, ggufFamily } from "./gguf-config.ts";
import { GgufMetadata } from "./gguf-metadata.ts";
import { parameterName } from "./gguf-names.ts";
import { type GgufChanges, ggufWeight } from "./gguf-weight.ts";
import type { ModelSource, SourceWeight } from "./source.ts";

/** Read for the configuration, or, in old files, following from it. */
const NOT_PARAMETERS = /^rope_freqs\.weight$|^blk\.\d+\.attn_rot_embd$/;

/** Opens a GGUF file as a model. Throws FormatError or ConfigError, with nothing left open. */
export function openGgufModel(path: string): ModelSource {
  const file = openGguf(path);
  try {
    const split = new GgufMetadata(file).positive("split.count") ?? 1;
    if (split > 1) {
      const expected = "one file: merge the parts with llama.cpp's `llama-gguf-split --merge`";
      throw new FormatError({ file: path, field: "split.count", found: `one of ${split} parts`, expected });
    }
    const hfConfig = configFromGguf(file);
    const { family, decoder } = parseConfig(hfConfig, path);
    const weights = weightsOf(file, decoder, ggufFamily(new GgufMetadata(file)).gguf!);
    return { path, family, decoder, hfConfig, generationConfig: null, weights, [Symbol.dispose]: () => file.close() };
  } catch (error) {
    file.close();
    throw error;
  }
}

function weightsOf(
  file: GgufFile,
  decoder: DecoderConfig,
  conventions: NonNullable<Family["gguf"]>,
): Map<string, SourceWeight> {
  const weights = new Map<string, SourceWeight>();
  for (const info of file.tensors.values()) {
    if (NOT_PARAMETERS.test(info.name)) continue;
    const name = parameterName(info.name, decoder);
    // Unlike in a folder an unknown tensor is an error: the configuration is our own reading of this file.
    if (!name) {
      const expected = `a tensor of a ${decoder.family} model`;
      throw new FormatError({
        file: file.path,
        field: `tensor ${show(info.name)}`,
        found: "an unknown name",
        expected,
      });
    }
    weights.set(name, ggufWeight(file, info, changesTo(name, decoder, conventions)));
  }
  return weights;
}

function changesTo(name: string, decoder: DecoderConfig, conventions: NonNullable<Family["gguf"]>): GgufChanges {
  const rotated = /\.(q|k)_proj\.(weight|bias)$/.test(name);
  return {
    interleavedHeads: conventions.permutedRope && rotated ? decoder.headDim : null,
    plusOne: conventions.normsPlusOne && name.endsWith("norm.weight"),
  };
}
