import { runInNewContext } from "node:vm";
import { OptionError } from "../util/options.ts";

/** Patterns come with downloaded adapters: one made to backtrack for ever must not hang the process. Milliseconds. */
const TIME_LIMIT = 2000;
const MAX_LENGTH = 10_000;

/** A Python regular expression whose whole-name matches are wanted (`re.fullmatch`). Throws OptionError naming `field`. */
export function fullMatch(pattern: string, field: string): RegExp {
  return compile(pattern, "^(?:", ")$", field);
}

/** A key of rank_pattern or alpha_pattern: `^(.*\.)?(KEY)$`, so a name's last parts or a regular expression for them. */
export function patternKey(pattern: string, field: string): RegExp {
  return compile(pattern, "^(?:.*\\.)?(?:", ")$", field);
}

/** Which names each expression matches: [expression][name]. Throws OptionError when that takes longer than 2 s. */
export function matchNames(expressions: readonly RegExp[], names: readonly string[], field: string): boolean[][] {
  if (expressions.length === 0) return [];
  const body = "expressions.map((expression) => names.map((name) => expression.test(name)))";
  try {
    return runInNewContext(body, { expressions, names }, { timeout: TIME_LIMIT }) as boolean[][];
  } catch (error) {
    const shown = expressions.map((expression) => expression.source).join(", ");
    throw new OptionError(
      `${field}: matching ${shown.slice(0, 200)} against the module names took over ${TIME_LIMIT} ms; use a simpler pattern`,
      { cause: error },
    );
  }
}

/** PEFT's rule for names in lists: the whole path, or its last parts. */
export function isSuffix(path: string, name: string): boolean {
  return path === name || path.endsWith(`.${name}`);
}

function compile(pattern: string, before: string, after: string, field: string): RegExp {
  try {
    if (pattern.length > MAX_LENGTH) throw new Error(`it is longer than ${MAX_LENGTH} characters`);
    const { source, flags } = translate(pattern);
    return new RegExp(before + source + after, flags);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new OptionError(
      `${field}: "${pattern.slice(0, 200)}" is not a regular expression that can be used here: ${reason}`,
      {
        cause: error,
      },
    );
  }
}

/** Python's spelling to JavaScript's: leading flags, named groups, \A and \Z, {,n}. */
function translate(pattern: string): { source: string; flags: string } {
  const [head = "", letters = ""] = /^\(\?([aimsu]+)\)/.exec(pattern) ?? [];
  // Module names are ASCII on one line: (?a), (?u) and (?m) change nothing.
  const flags = `${letters.includes("i") ? "i" : ""}${letters.includes("s") ? "s" : ""}`;
  const token = /\\[\s\S]|\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]|\(\?P<|\(\?P=(\w+)\)|\{,(\d+)\}|\(\?P|\(\?#[^)]*\)|[\s\S]/g;
  const source = pattern.slice(head.length).replace(token, (text: string, reference?: string, most?: string) => {
    if (text === "\\A") return "^";
    if (text === "\\Z") return "$";
    if (text === "(?P<") return "(?<";
    if (reference !== undefined) return `\\k<${reference}>`;
    if (most !== undefined) return `{0,${most}}`;
    if (text.startsWith("(?#")) return "";
    // In Python a bracket right after [ or [^ is a member of the class.
    if (/^\[\^?\]./s.test(text)) return text.replace("]", "\\]");
    return text;
  });
  return { source, flags };
}
