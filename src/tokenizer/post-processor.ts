import { FormatError, show } from "../formats/errors.ts";
import { type Component, isRecord, isTokenId, sequenceOf, unsupported } from "./tokenizer-json.ts";

/** Ids that `addSpecialTokens` puts around one text. */
export interface SpecialTokens {
  before: number[];
  after: number[];
}

const TYPES = ["ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing", "Sequence"];

/** What the post-processor of a `tokenizer.json` adds to a single text (pairs of texts are not supported). */
export function readPostProcessor(component: Component | null): SpecialTokens {
  if (component === null) return { before: [], after: [] };
  switch (component.type) {
    case "ByteLevel":
      return { before: [], after: [] };
    case "Sequence":
      return sequenceOf(component, "processors")
        .map(readPostProcessor)
        .reduce((inner, outer) => ({
          before: [...outer.before, ...inner.before],
          after: [...inner.after, ...outer.after],
        }));
    case "TemplateProcessing":
      return readTemplate(component);
    case "BertProcessing":
    case "RobertaProcessing":
      return { before: [pairId(component, "cls")], after: [pairId(component, "sep")] };
    default:
      throw unsupported("post_processor", component.type, TYPES);
  }
}

function readTemplate(component: Component): SpecialTokens {
  const bad = (found: unknown): FormatError =>
    new FormatError({
      field: "post_processor TemplateProcessing.single",
      found: show(found),
      expected: "special tokens around one sequence A",
    });
  if (!Array.isArray(component.single)) throw bad(component.single);
  const result: SpecialTokens = { before: [], after: [] };
  let seen = false;
  for (const item of component.single as unknown[]) {
    if (!isRecord(item)) throw bad(item);
    if (isRecord(item.Sequence)) {
      if (seen || item.Sequence.id !== "A") throw bad(item.Sequence.id);
      seen = true;
    } else if (isRecord(item.SpecialToken)) {
      (seen ? result.after : result.before).push(...templateIds(component, item.SpecialToken.id));
    } else {
      throw bad(Object.keys(item)[0]);
    }
  }
  if (!seen) throw bad("no sequence");
  return result;
}

function templateIds(component: Component, name: unknown): number[] {
  const tokens = isRecord(component.special_tokens) ? component.special_tokens : {};
  const token = typeof name === "string" && Object.hasOwn(tokens, name) ? tokens[name] : undefined;
  const ids = isRecord(token) ? token.ids : undefined;
  if (!Array.isArray(ids) || !ids.every(isTokenId)) {
    const field = `post_processor TemplateProcessing.special_tokens[${show(name)}].ids`;
    throw new FormatError({ field, found: show(ids), expected: "an array of ids" });
  }
  return ids;
}

/** `cls` and `sep` are [token, id] pairs. */
function pairId(component: Component, key: "cls" | "sep"): number {
  const pair = component[key];
  const id: unknown = Array.isArray(pair) ? pair[1] : undefined;
  if (!isTokenId(id)) {
    throw new FormatError({
      field: `post_processor ${component.type}.${key}`,
      found: show(pair),
      expected: "[token, id]",
    });
  }
  return id;
}
