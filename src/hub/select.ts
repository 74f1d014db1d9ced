import { INDEX_FILE, SINGLE_FILE } from "../formats/safetensors-folder.ts";
import { isJsonObject, parseJsonObject } from "../formats/strict-json.ts";
import { TOKENIZER_FILES } from "../tokenizer/tokenizer-files.ts";
import { nearest } from "../util/nearest.ts";
import { HubError } from "./errors.ts";
import { matchesPattern } from "./glob.ts";
import { checkFileName } from "./names.ts";

/** What a selection may ask: the repository's files, and the contents of one (which downloads it). */
export interface Offer {
  /** For messages: `model org/name`. */
  readonly repo: string;
  readonly names: readonly string[];
  readonly read: (name: string) => Promise<Uint8Array>;
}

/** Which files of a repository are wanted. Throws HubError `no-usable-files` if it has not what is needed. */
export type Select = (offer: Offer) => Promise<string[]>;

const MODEL_FILES = new Set([
  "config.json",
  "generation_config.json",
  "preprocessor_config.json",
  "processor_config.json",
  "video_preprocessor_config.json",
  "adapter_config.json",
  "adapter_model.safetensors",
  "vocab.txt",
  ...TOKENIZER_FILES,
]);
const MORE_TEMPLATES = /^additional_chat_templates\/[^/]+\.jinja$/;
const PICKLE = /\.(bin|pt|pth|ckpt|pkl|pickle|dill|joblib)$/i;
const DATA = /\.(parquet|jsonl|ndjson|json|csv|tsv|txt)$/i;
const GGUF = /\.gguf$/i;
const GGUF_PART = /-\d{5}-of-\d{5}\.gguf$/i;

/**
 * A model as transformers would load it: config, tokenizer, chat templates and model.safetensors, or else the shards that
 * model.safetensors.index.json names; or an adapter. Never a pickle: reading one can run code.
 */
export const selectModel: Select = async (offer) => {
  const { names } = offer;
  const has = (name: string) => names.includes(name);
  const chosen = names.filter((name) => MODEL_FILES.has(name) || MORE_TEMPLATES.test(name));
  if (has(SINGLE_FILE)) return [...chosen, SINGLE_FILE];
  if (has(INDEX_FILE)) return [...chosen, INDEX_FILE, ...(await shards(offer))];
  if (has("adapter_config.json") && has("adapter_model.safetensors")) return chosen;
  throw noWeights(offer);
};

/** One GGUF file, by its name, or by a part of it that no other has (`Q4_K_M`). */
export function selectGguf(wanted: string): Select {
  return async ({ repo, names }) => {
    const all = names.filter((name) => GGUF.test(name));
    const part = wanted.toLowerCase();
    const found = all.includes(wanted) ? [wanted] : all.filter((name) => name.toLowerCase().includes(part));
    if (found.length !== 1) {
      const close = nearest(wanted, all);
      const what = found.length === 0 ? `no GGUF file "${wanted}"` : `${found.length} GGUF files for "${wanted}"`;
      const hint = close && found.length === 0 ? ` (did you mean "${close}"?)` : "";
      throw unusable(`${repo} has ${what}${hint}. It has: ${shown(found.length > 0 ? found : all)}`);
    }
    if (GGUF_PART.test(found[0]!)) {
      throw unusable(
        `${repo}: ${found[0]} is one part of a model, and GGUF models are read from one file. Choose another, or download the parts with allowPatterns and merge them with llama.cpp's llama-gguf-split --merge`,
      );
    }
    return found;
  };
}

/** The files a data set is read from, and README.md, whose header says which of them form which split. */
export const selectData: Select = async ({ repo, names }) => {
  const chosen = names.filter((name) => DATA.test(name) && !/(^|\/)\./.test(name) && name !== "dataset_infos.json");
  if (chosen.length > 0) return names.includes("README.md") ? [...chosen, "README.md"] : chosen;
  throw unusable(`${repo} has no data in Parquet, JSON, JSON Lines, CSV, TSV or text files. It has: ${shown(names)}`);
};

/** The files that match one of the patterns (`*` also matches "/"), pickles left out. */
export function selectPatterns(patterns: readonly string[]): Select {
  return async ({ repo, names }) => {
    const matching = names.filter((name) => patterns.some((pattern) => matchesPattern(name, pattern)));
    const chosen = matching.filter((name) => !PICKLE.test(name));
    if (chosen.length > 0) return chosen;
    const pickles = matching.length > 0 ? " but pickles, which can run code and are never downloaded" : "";
    throw unusable(`${repo} has nothing that matches ${patterns.join(", ")}${pickles}. It has: ${shown(names)}`);
  };
}

async function shards({ repo, names, read }: Offer): Promise<string[]> {
  const { weight_map: map } = parseJsonObject(await read(INDEX_FILE), `${repo}: ${INDEX_FILE}`, "index");
  if (!isJsonObject(map) || Object.keys(map).length === 0) {
    throw unusable(`${repo}: ${INDEX_FILE}: weight_map: expected an object from tensor names to shards`);
  }
  const wanted = new Set(Object.values(map).map((shard) => checkFileName(shard, `${repo}: ${INDEX_FILE}`)));
  for (const shard of wanted) {
    if (!names.includes(shard) || PICKLE.test(shard)) {
      throw unusable(`${repo}: ${INDEX_FILE} names ${shard}, which is not a safetensors file of the repository`);
    }
  }
  return [...wanted].sort();
}

function noWeights({ repo, names }: Offer): HubError {
  const ggufs = names.filter((name) => GGUF.test(name));
  if (ggufs.length > 0) {
    return unusable(`${repo} has GGUF files, of which one must be chosen, as org/name:file. It has: ${shown(ggufs)}`);
  }
  const pickles = names.filter((name) => PICKLE.test(name));
  if (pickles.length > 0) {
    return unusable(
      `${repo} has its weights as pickles only (${shown(pickles)}), which can run code and are never loaded. Choose a model, or a revision such as refs/pr/N, with safetensors`,
    );
  }
  return unusable(`${repo} has neither ${SINGLE_FILE} nor ${INDEX_FILE}. It has: ${shown(names)}`);
}

function unusable(message: string): HubError {
  return new HubError("no-usable-files", message);
}

function shown(names: readonly string[]): string {
  const first = names.slice(0, 12).join(", ") || "nothing";
  return names.length > 12 ? `${first} and ${names.length - 12} more` : first;
}
