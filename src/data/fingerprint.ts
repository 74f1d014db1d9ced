import { createHash } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { DataFile } from "./files.ts";
import type { LocatedRow } from "./jsonl.ts";
import { PREPARED_FORMAT } from "./prepared-file.ts";
import type { RecipeOptions } from "./recipes.ts";

/** What rows are: their files' formats, sizes and contents, or the rows themselves. */
export type SourceFingerprint = string[];

/**
 * The name of prepared rows: SHA-256 over everything that decides them, so that a change of any gives another name. That
 * is the data, the tokenizer (its fingerprint), the options and this package's version.
 */
export function preparedKey(source: SourceFingerprint, tokenizer: string, options: RecipeOptions): string {
  const { trainOn, assistantOnlyLoss, responses, textField, maxSeqLength, chatTemplate } = options;
  const parts = {
    format: PREPARED_FORMAT,
    version: packageVersion(),
    source,
    tokenizer,
    options: [
      trainOn ?? null,
      assistantOnlyLoss ?? false,
      responses ? [responses.instructionPart ?? null, responses.responsePart ?? null] : null,
      textField ?? null,
      maxSeqLength ?? null,
      chatTemplate ?? null,
    ],
  };
  return sha256(JSON.stringify(parts));
}

/** SHA-256 over the tokenizer's files, its chat template among them. */
export function tokenizerFingerprint(tokenizer: Tokenizer): string {
  const files = [...tokenizer.files].sort(([a], [b]) => (a < b ? -1 : 1));
  return sha256(JSON.stringify(files.map(([name, bytes]) => [name, sha256(bytes)])));
}

/** Of files, whatever their names: format, size and SHA-256 of the contents. `onBytes` is told what has been read. */
export async function fingerprintFiles(
  files: readonly DataFile[],
  onBytes: (bytes: number) => void,
): Promise<SourceFingerprint> {
  const parts: SourceFingerprint = [];
  for (const { path, format } of files) {
    const hash = createHash("sha256");
    let size = 0;
    for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 }) as AsyncIterable<Buffer>) {
      hash.update(chunk);
      size += chunk.length;
      onBytes(chunk.length);
    }
    parts.push(`${format} ${size} ${hash.digest("hex")}`);
  }
  return parts;
}

/** Of rows: SHA-256 over each one's JSON and where it came from. */
export async function fingerprintRows(
  rows: Iterable<LocatedRow> | AsyncIterable<LocatedRow>,
  onRow: () => void,
): Promise<SourceFingerprint> {
  const hash = createHash("sha256");
  let count = 0;
  for await (const { row, where } of rows) {
    hash.update(`${JSON.stringify([row, where])}\n`);
    count++;
    onRow();
  }
  return [`rows ${count} ${hash.digest("hex")}`];
}

/** Sizes and times of files, to see whether they changed. */
export async function filesState(files: readonly DataFile[]): Promise<string> {
  const infos = await Promise.all(files.map(({ path }) => stat(path)));
  return infos.map(({ size, mtimeMs }) => `${size} ${mtimeMs}`).join("\n");
}

const sha256 = (data: string | Uint8Array): string => createHash("sha256").update(data).digest("hex");

function packageVersion(): string {
  const file = new URL("../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}
