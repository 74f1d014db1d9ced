import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Folder of the fixtures that tests/oracle/tokenizer wrote. For tests only. */
export const FIXTURES = fileURLToPath(new URL("../../tests/fixtures/tokenizer/", import.meta.url));

/** What Python made of a text: see make_tokenizers.py. Fields left out equal the text, or the ids. */
export interface ExpectedEncoding {
  text: string;
  ids: number[];
  special?: number[];
  offsets: [number, number][];
  decoded?: string;
  skipped?: string;
}

export interface ExpectedTokenizer {
  encode: ExpectedEncoding[];
  decode: { ids: number[]; text: string }[];
}

export function readFixture<T>(path: string): T {
  return JSON.parse(readFileSync(`${FIXTURES}${path}`, "utf8")) as T;
}

/** Names of the tokenizers among the fixtures. */
export function tokenizerNames(): string[] {
  return readdirSync(FIXTURES)
    .filter((name) => existsSync(`${FIXTURES}${name}/tokenizer.json`))
    .sort();
}
