import { FormatError, reason, show } from "./errors.ts";

/** JSON.parse makes an object of some 60 bytes out of three: without a limit a 100 MB file could exhaust the heap. */
const MAX_STRUCTURE = 2 ** 21;

/**
 * The JSON object in `bytes`: valid UTF-8, valid JSON, an object at the top, no key twice in it or in an object directly
 * inside it (JSON.parse would keep the last one silently), at most 2²¹ keys, objects and arrays.
 * Throws `FormatError` naming `file` and `field`.
 */
export function parseJsonObject(bytes: Uint8Array, file: string, field: string): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new FormatError({ file, field, found: "bytes that are not UTF-8", expected: "UTF-8 text", cause });
  }
  if (hasTooMuchStructure(bytes))
    throw new FormatError({
      file,
      field,
      found: `more than ${MAX_STRUCTURE} keys, objects and arrays`,
      expected: "fewer",
    });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError({ file, field, found: `invalid JSON (${reason(cause)})`, expected: "a JSON object", cause });
  }
  if (!isJsonObject(value)) throw new FormatError({ file, field, found: show(value), expected: "a JSON object" });
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined)
    throw new FormatError({ file, field, found: `the key ${show(duplicate)} twice`, expected: "every key once" });
  return value;
}

export function isJsonObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function hasTooMuchStructure(json: Uint8Array): boolean {
  let count = 0;
  for (let i = 0; i < json.length; i++) {
    const byte = json[i];
    if (byte === 0x22) {
      for (i++; i < json.length && json[i] !== 0x22; i++) if (json[i] === 0x5c) i++;
    } else if ((byte === 0x3a || byte === 0x5b || byte === 0x7b) && ++count > MAX_STRUCTURE) return true;
  }
  return false;
}

/** Walks valid JSON from string to string; a key is a string before a colon. Deeper than two levels is not looked at. */
function findDuplicateKey(text: string): string | undefined {
  const seen: Set<string>[] = [new Set(), new Set()];
  let depth = 0;
  let lastString = "";
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x22: {
        let end = text.indexOf('"', i + 1);
        while (isEscaped(text, end)) end = text.indexOf('"', end + 1);
        if (depth <= 2) lastString = text.slice(i, end + 1);
        i = end;
        break;
      }
      case 0x3a: {
        const keys = seen[depth - 1];
        if (!keys) break;
        const key: string = lastString.includes("\\") ? JSON.parse(lastString) : lastString.slice(1, -1);
        if (keys.has(key)) return key;
        keys.add(key);
        break;
      }
      case 0x7b: // {
      case 0x5b: // [
        depth++;
        if (depth === 2) seen[1] = new Set();
        break;
      case 0x7d: // }
      case 0x5d: // ]
        depth--;
        break;
    }
  }
  return undefined;
}

function isEscaped(text: string, quote: number): boolean {
  let backslashes = 0;
  while (text.charCodeAt(quote - 1 - backslashes) === 0x5c) backslashes++;
  return backslashes % 2 === 1;
}
