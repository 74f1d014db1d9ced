import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { FormatError, reason, show } from "../formats/errors.ts";
import {
  type AddedToken,
  checkAddedToken,
  checkTokenizerJson,
  isRecord,
  isTokenId,
  type TokenizerJson,
} from "./tokenizer-json.ts";

/** Files of a model folder that belong to its tokenizer; `savePretrained` writes them all back. */
export const TOKENIZER_FILES: readonly string[] = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
];

/** Special tokens by role (`bos_token` …) to their content. */
export type SpecialTokenNames = Record<string, string>;

/** What a tokenizer is built from: the files' contents, and what they say. */
export interface TokenizerSource {
  /** File name to contents, of those of `TOKENIZER_FILES` there were. */
  files: Map<string, Uint8Array>;
  json: TokenizerJson;
  addedTokens: AddedToken[];
  specialTokens: SpecialTokenNames;
  /** Name to Jinja source; "default" is the one used unless asked otherwise. */
  chatTemplates: Record<string, string>;
  /** All of generation_config.json's `eos_token_id`. */
  generationEosIds: number[];
}

/** Reads the tokenizer of a model folder. Throws `FormatError` naming the file and field at fault. */
export async function readTokenizerFolder(folder: string): Promise<TokenizerSource> {
  const files = new Map<string, Uint8Array>();
  for (const name of TOKENIZER_FILES) {
    const bytes = await readIfThere(join(folder, name));
    if (bytes !== null) files.set(name, bytes);
  }
  const generation = await readIfThere(join(folder, "generation_config.json"));
  return readTokenizerFiles(files, generation, folder);
}

/** As `readTokenizerFolder`, from contents in memory. `folder` is named in errors. */
export function readTokenizerFiles(
  files: Map<string, Uint8Array>,
  generationConfig: Uint8Array | null = null,
  folder = "",
): TokenizerSource {
  const parse = (name: string, bytes: Uint8Array | null | undefined): unknown =>
    bytes === null || bytes === undefined ? null : parseJson(bytes, join(folder, name));
  const parseObject = (name: string, bytes: Uint8Array | null | undefined): Record<string, unknown> => {
    const value = parse(name, bytes) ?? {};
    if (isRecord(value)) return value;
    throw new FormatError({ file: join(folder, name), field: "contents", found: show(value), expected: "an object" });
  };
  const tokenizerFile = join(folder, "tokenizer.json");
  if (!files.has("tokenizer.json")) {
    throw new FormatError({
      file: tokenizerFile,
      field: "file",
      found: `nothing${files.size === 0 ? "" : ` (only ${[...files.keys()].join(", ")})`}`,
      expected:
        "a tokenizer.json; for an older model, load it with Hugging Face's AutoTokenizer and save_pretrained() once",
    });
  }
  const json = checkTokenizerJson(parse("tokenizer.json", files.get("tokenizer.json")), tokenizerFile);
  const config = parseObject("tokenizer_config.json", files.get("tokenizer_config.json"));
  const map = parseObject("special_tokens_map.json", files.get("special_tokens_map.json"));
  const generation = parseObject("generation_config.json", generationConfig);
  const eos = Array.isArray(generation.eos_token_id) ? generation.eos_token_id : [generation.eos_token_id];
  // The config decides; the map is from before it named the tokens.
  const specialTokens = { ...readSpecialTokens(map), ...readSpecialTokens(config) };
  return {
    files,
    json,
    addedTokens: allAddedTokens(json, config, specialTokens, join(folder, "tokenizer_config.json")),
    specialTokens,
    chatTemplates: readChatTemplates(files, config, parseObject("chat_template.json", files.get("chat_template.json"))),
    generationEosIds: eos.filter(isTokenId),
  };
}

/**
 * As transformers does, the added tokens of `tokenizer.json`, those that only `tokenizer_config.json` lists, and the
 * special tokens named there that are in the vocabulary. (One that is nowhere has no id: its embedding does not exist.)
 */
function allAddedTokens(
  json: TokenizerJson,
  config: Record<string, unknown>,
  specialTokens: SpecialTokenNames,
  file: string,
): AddedToken[] {
  const tokens = new Map(json.added_tokens.map((token) => [token.content, token]));
  const decoder = isRecord(config.added_tokens_decoder) ? config.added_tokens_decoder : {};
  for (const [id, value] of Object.entries(decoder)) {
    const token = checkAddedToken(value, `added_tokens_decoder[${show(id)}]`, file, Number(id));
    if (!tokens.has(token.content)) tokens.set(token.content, token);
  }
  const vocab = json.model.vocab;
  for (const content of Object.values(specialTokens)) {
    if (tokens.has(content)) continue;
    const id: unknown = Array.isArray(vocab)
      ? vocab.findIndex((entry: unknown) => Array.isArray(entry) && entry[0] === content)
      : isRecord(vocab) && Object.hasOwn(vocab, content)
        ? vocab[content]
        : -1;
    if (isTokenId(id)) tokens.set(content, checkAddedToken({ content, special: true }, "special token", file, id));
  }
  return [...tokens.values()];
}

/** Keys that end in `_token` and hold a token: a string, or an object with its `content`. */
function readSpecialTokens(source: Record<string, unknown>): SpecialTokenNames {
  const names: SpecialTokenNames = {};
  for (const [key, value] of Object.entries(source)) {
    if (!key.endsWith("_token")) continue;
    const content: unknown = isRecord(value) ? value.content : value;
    if (typeof content === "string") names[key] = content;
  }
  return names;
}

/** The template file goes before the config's entry, which is one template or a list of named ones. */
function readChatTemplates(
  files: Map<string, Uint8Array>,
  config: Record<string, unknown>,
  legacy: Record<string, unknown>,
): Record<string, string> {
  const templates: Record<string, string> = {};
  for (const source of [legacy.chat_template, config.chat_template]) {
    if (typeof source === "string") templates.default = source;
    if (!Array.isArray(source)) continue;
    for (const item of source) {
      if (isRecord(item) && typeof item.name === "string" && typeof item.template === "string") {
        templates[item.name] = item.template;
      }
    }
  }
  const file = files.get("chat_template.jinja");
  if (file !== undefined) templates.default = new TextDecoder().decode(file);
  return templates;
}

function parseJson(bytes: Uint8Array, file: string): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw new FormatError({ file, field: "contents", found: reason(cause), expected: "JSON", cause });
  }
}

async function readIfThere(path: string): Promise<Uint8Array | null> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
