import { isRecord } from "./tokenizer-json.ts";

/** Global functions a rewritten template calls. No template can name them: they are not Jinja identifiers. */
export const STRIP_GLOBALS: Readonly<Record<string, (text: unknown, characters: unknown) => string>> = {
  "strip()": (text, characters) => strip(text, characters, true, true),
  "lstrip()": (text, characters) => strip(text, characters, true, false),
  "rstrip()": (text, characters) => strip(text, characters, false, true),
};

/**
 * @huggingface/jinja 0.5.11 ignores the argument of `strip`, `lstrip` and `rstrip`, so that `content.lstrip('\n')`, which
 * Qwen3's template has, would eat indentation too. Rewrites such calls in a parsed template, in place, to
 * `STRIP_GLOBALS`.
 */
export function honourStripArguments(node: unknown): void {
  if (Array.isArray(node)) {
    for (const item of node) honourStripArguments(item);
    return;
  }
  if (!isRecord(node)) return;
  for (const child of Object.values(node)) honourStripArguments(child);
  const { type, callee, args } = node;
  if (type !== "CallExpression" || !Array.isArray(args) || args.length === 0) return;
  if (!isRecord(callee) || callee.type !== "MemberExpression" || callee.computed === true) return;
  const method = isRecord(callee.property) ? `${String(callee.property.value)}()` : "";
  if (!Object.hasOwn(STRIP_GLOBALS, method)) return;
  node.callee = { type: "Identifier", value: method };
  node.args = [callee.object, ...args];
}

/** Python's str.strip(characters): any of the characters, from either end. With None, whitespace. */
function strip(text: unknown, characters: unknown, left: boolean, right: boolean): string {
  if (typeof text !== "string") throw new Error("strip() called on something that is not a string");
  if (characters === null || characters === undefined) {
    return left && right ? text.trim() : left ? text.trimStart() : text.trimEnd();
  }
  const set = new Set(String(characters));
  const chars = Array.from(text);
  let start = 0;
  let end = chars.length;
  if (left) while (start < end && set.has(chars[start]!)) start++;
  if (right) while (end > start && set.has(chars[end - 1]!)) end--;
  return chars.slice(start, end).join("");
}
