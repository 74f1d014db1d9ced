import { readFileSync, statSync } from "node:fs";
import { isAlias, isMap, isScalar, LineCounter, type Node, type Pair, parseDocument } from "yaml";
import { reason } from "../../formats/errors.ts";
import { UsageError } from "../exit.ts";

/** One key of a configuration file. */
export interface ConfigEntry {
  readonly key: string;
  /** The section it stands in; null at the top. */
  readonly section: string | null;
  readonly value: unknown;
  /** "config.yaml:3". */
  readonly where: string;
}

const MAX_BYTES = 2 ** 20;

/**
 * The keys of a YAML (or JSON) file with the lines they are on. Maps under a key that `isSection` holds for are opened one
 * level deep; all other maps are values. Throws UsageError naming file and line.
 */
export function readConfigFile(path: string, isSection: (key: string) => boolean): ConfigEntry[] {
  const text = readText(path);
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
  const at = (offset: number | undefined): string => `${path}:${lines.linePos(offset ?? 0).line}`;
  const [error] = document.errors;
  if (error) throw new UsageError(`${at(error.pos[0])}: not valid YAML: ${error.message}`);
  if (document.contents === null) return [];
  if (!isMap(document.contents)) {
    throw new UsageError(`${at(document.contents.range?.[0])}: expected "option: value" lines`);
  }
  const entryOf = (pair: Pair, section: string | null): ConfigEntry => {
    const key = pair.key as Node | null;
    const where = at(key?.range?.[0]);
    if (!isScalar(key) || typeof key.value !== "string") {
      throw new UsageError(`${where}: expected an option's name before the colon, found ${String(key)}`);
    }
    const node = pair.value as Node | null;
    const value = isAlias(node) ? node.resolve(document) : node;
    return { key: key.value, section, value: value ? toValue(value, document, where) : null, where };
  };
  return document.contents.items.flatMap((pair) => {
    const entry = entryOf(pair, null);
    if (!isMap(pair.value) || !isSection(entry.key)) return [entry];
    return pair.value.items.map((inner) => entryOf(inner, entry.key));
  });
}

function toValue(node: Node, document: ReturnType<typeof parseDocument>, where: string): unknown {
  try {
    // The default limit on aliases stands against files that grow without bound.
    return node.toJS(document);
  } catch (error) {
    throw new UsageError(`${where}: ${reason(error)}`);
  }
}

function readText(path: string): string {
  try {
    const { size } = statSync(path);
    if (size > MAX_BYTES) throw new UsageError(`${path}: ${size} bytes; a configuration has at most ${MAX_BYTES}`);
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`the configuration file cannot be read: ${reason(error)}`);
  }
}
