import { FormatError, show } from "../formats/errors.ts";
import { nearest } from "../util/nearest.ts";
import { knownOptions } from "../util/options.ts";
import { ChatTemplate } from "./chat-template.ts";
import { type MessageMapping, withMapping } from "./chat-template-mapping.ts";
import {
  CHAT_TEMPLATES,
  type ChatTemplateName,
  chatTemplateName,
  jinjaString,
  type NamedTemplate,
} from "./templates/index.ts";
import { Tokenizer } from "./tokenizer.ts";
import { readTokenizerFiles } from "./tokenizer-files.ts";
import { isRecord } from "./tokenizer-json.ts";

/** A template of one's own. */
export interface CustomTemplate {
  /** Jinja source. */
  template: string;
  /** The token that ends a turn, where that is not the tokenizer's EOS. */
  endOfTurn?: string;
}

export interface GetChatTemplateOptions {
  /** What conversations call the parts of a message, where not "role", "content", "user" and "assistant". */
  mapping?: MessageMapping;
  /**
   * Make the template's end-of-turn token the tokenizer's EOS (default), so that generation stops there. A token the
   * vocabulary lacks takes the place of the old EOS, whose embedding it gets.
   */
  mapEosToken?: boolean;
  /** In place of the system message that some templates put where a conversation has none. */
  systemMessage?: string;
}

const OPTIONS = ["mapping", "mapEosToken", "systemMessage"];

/** Unsloth's way of giving name and options in one object. */
export type NamedTemplateOptions = GetChatTemplateOptions & {
  readonly chatTemplate?: ChatTemplateName | (string & {});
};

/**
 * Unsloth's get_chat_template: a new tokenizer that writes conversations by a template of that name (or one of yours), and
 * is saved with it. Without a name it is the model's own template. The given tokenizer stays as it is.
 * Throws `FormatError` at an unknown name (with the nearest), or where there is no template or EOS.
 *
 *     const tokenizer = getChatTemplate(base, "chatml", { mapping: { role: "from", content: "value", user: "human", assistant: "gpt" } });
 */
export function getChatTemplate(
  tokenizer: Tokenizer,
  template?: ChatTemplateName | (string & {}) | CustomTemplate | NamedTemplateOptions,
  options: GetChatTemplateOptions = {},
): Tokenizer {
  if (typeof template === "object" && !Object.hasOwn(template, "template")) {
    const { chatTemplate, ...rest } = knownOptions("getChatTemplate", ["chatTemplate", ...OPTIONS], template);
    return getChatTemplate(tokenizer, chatTemplate as string | undefined, { ...rest, ...options });
  }
  const given: GetChatTemplateOptions = knownOptions("getChatTemplate", OPTIONS, options);
  const { mapping = {}, mapEosToken = true, systemMessage } = given;
  const { source, endOfTurn } = templateOf(tokenizer, template as string | CustomTemplate | undefined, systemMessage);
  const mapped = withMapping(source, mapping);
  // A template that does not parse is an error now.
  new ChatTemplate(mapped);
  const files = new Map(tokenizer.files);
  if (mapEosToken && endOfTurn !== null && endOfTurn !== tokenizer.eosToken) mapEos(files, tokenizer, endOfTurn);
  files.delete("chat_template.json");
  editJson(files, "tokenizer_config.json", ({ chat_template: _, ...config }) => config);
  files.set("chat_template.jinja", Buffer.from(mapped));
  return new Tokenizer({ ...readTokenizerFiles(files), generationEosIds: [...tokenizer.eosTokenIds] });
}

function templateOf(
  tokenizer: Tokenizer,
  template: string | CustomTemplate | undefined,
  systemMessage: string | undefined,
): { source: string; endOfTurn: string | null } {
  const refuseSystem = (found: string): void => {
    if (systemMessage === undefined) return;
    const names = Object.entries(CHAT_TEMPLATES).filter(([, named]) => "system" in named);
    const expected = `one with a system message of its own: ${names.map(([name]) => name).join(", ")}`;
    throw new FormatError({ field: "systemMessage", found, expected });
  };
  if (template === undefined) {
    if (tokenizer.chatTemplate === null) {
      const expected = `one by name: ${Object.keys(CHAT_TEMPLATES).join(", ")}`;
      throw new FormatError({ field: "chat template", found: "none in this tokenizer", expected });
    }
    refuseSystem("the model's own template");
    return { source: tokenizer.chatTemplate, endOfTurn: null };
  }
  if (typeof template !== "string") {
    refuseSystem("a template of your own");
    return { source: template.template, endOfTurn: template.endOfTurn ?? null };
  }
  const name = chatTemplateName(template);
  if (name === null) {
    const names = Object.keys(CHAT_TEMPLATES);
    const close = nearest(template, names);
    const expected = `one of ${names.join(", ")}${close === null ? "" : ` (nearest: ${close})`}, or {template}`;
    throw new FormatError({ field: "chat template", found: show(template), expected });
  }
  const { source, system, endOfTurn }: NamedTemplate = CHAT_TEMPLATES[name];
  if (typeof source === "string") {
    refuseSystem(`the ${name} template`);
    return { source, endOfTurn };
  }
  return { source: source(jinjaString(systemMessage ?? system ?? "")), endOfTurn };
}

/** Files of slow tokenizers, which would not know of a renamed token. */
const SLOW_FILES = ["tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"];

/** In place: makes `token` the EOS. */
function mapEos(files: Map<string, Uint8Array>, tokenizer: Tokenizer, token: string): void {
  const configs = ["tokenizer_config.json", "special_tokens_map.json"];
  if (tokenizer.tokenToId(token) === null) {
    const old = tokenizer.eosToken;
    if (old === null) {
      const expected = "one, or mapEosToken: false";
      throw new FormatError({ field: "eos_token", found: `none, to become ${show(token)}`, expected });
    }
    for (const name of ["tokenizer.json", ...configs]) {
      if (files.has(name)) editJson(files, name, (json) => renamed(json, old, token) as Record<string, unknown>);
    }
    for (const name of SLOW_FILES) files.delete(name);
  }
  for (const name of configs) {
    if (files.has(name) || name === configs[0]) editJson(files, name, (json) => ({ ...json, eos_token: token }));
  }
}

/** A copy of JSON in which the string `from`, as a value or key, is `to`. */
function renamed(value: unknown, from: string, to: string): unknown {
  if (value === from) return to;
  if (Array.isArray(value)) return value.map((item) => renamed(item, from, to));
  if (!isRecord(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key === from ? to : key, renamed(item, from, to)]),
  );
}

function editJson(
  files: Map<string, Uint8Array>,
  name: string,
  edit: (json: Record<string, unknown>) => Record<string, unknown>,
): void {
  const bytes = files.get(name);
  const json = bytes === undefined ? {} : (JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>);
  files.set(name, Buffer.from(`${JSON.stringify(edit(json), null, 2)}\n`));
}
