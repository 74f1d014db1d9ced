import { FormatError, show } from "../../formats/errors.ts";
import type { GgufFile, GgufValue } from "../../formats/gguf.ts";

/** A GGUF file's metadata by key, checked: every value of another type is a FormatError that names the key. */
export class GgufMetadata {
  readonly path: string;
  private readonly metadata: ReadonlyMap<string, GgufValue>;

  constructor(file: Pick<GgufFile, "path" | "metadata">) {
    this.path = file.path;
    this.metadata = file.metadata;
  }

  text(key: string): string | null {
    const entry = this.metadata.get(key);
    if (!entry) return null;
    return entry.type === "string" ? entry.value : this.fail(key, `type ${entry.type}`, "a string");
  }

  requiredText(key: string): string {
    return this.text(key) ?? this.fail(key, "nothing", "a string");
  }

  /** A finite number, f32 ones as the shortest decimal that gives the same f32: 0.00001, not 0.00000999999974. */
  number(key: string): number | null {
    const entry = this.metadata.get(key);
    if (!entry) return null;
    if (entry.type === "array") return this.common(key, entry.value);
    const { value } = entry;
    if (typeof value !== "number" && typeof value !== "bigint") {
      return this.fail(key, `type ${entry.type}`, "a number");
    }
    return this.finite(key, entry.type === "float32" ? shortestFloat32(Number(value)) : Number(value));
  }

  requiredNumber(key: string): number {
    return this.number(key) ?? this.fail(key, "nothing", "a number");
  }

  /** A number that may be absent or 0, both meaning "none". */
  positive(key: string): number | null {
    const value = this.number(key);
    if (value !== null && value < 0) this.fail(key, String(value), "a number of at least 0");
    return value === 0 ? null : value;
  }

  /** Length of a list of strings; null when there is none. */
  listLength(key: string): number | null {
    const entry = this.metadata.get(key);
    if (!entry) return null;
    return entry.type === "array" ? entry.value.length : this.fail(key, `type ${entry.type}`, "an array");
  }

  fail(key: string, found: string, expected: string): never {
    throw new FormatError({ file: this.path, field: `metadata ${show(key)}`, found, expected });
  }

  /** One number a layer: the same for all, or not a model that the decoder can be. */
  private common(key: string, values: ArrayLike<unknown>): number {
    const list = Array.from(values);
    const first = list[0];
    if (typeof first !== "number" || list.some((value) => value !== first)) {
      return this.fail(key, show(list), "one number, or the same for every layer");
    }
    return this.finite(key, first);
  }

  private finite(key: string, value: number): number {
    return Number.isFinite(value) ? value : this.fail(key, String(value), "a finite number");
  }
}

function shortestFloat32(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}
