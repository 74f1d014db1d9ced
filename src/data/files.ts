import { readdir, stat } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import { FormatError, show } from "../formats/errors.ts";
import { nearest } from "../util/nearest.ts";
import { knownOptions, OptionError } from "../util/options.ts";

export const DATA_FORMATS = ["jsonl", "json", "csv", "tsv", "parquet"] as const;
export type DataFormat = (typeof DATA_FORMATS)[number];

export interface DataFile {
  path: string;
  format: DataFormat;
}

/** Finds a data set by its id, "organisation/name": returns the path, or paths, of a copy on this disk. */
export type DatasetResolver = (id: string, request: { split?: string }) => Promise<string | readonly string[]>;

export interface LoadOptions {
  /** "train", "test", "validation" or another part that the files' names tell. */
  split?: string;
  /** Which of several data sets in one folder, each in a folder of its own: what Hugging Face calls a configuration. */
  name?: string;
  /** By default what the file's name ends in. */
  format?: DataFormat;
  /** Asked for ids that are no path; by default the Hugging Face hub is. */
  resolve?: DatasetResolver;
}

/** Arguments of `load`, checked. Throws OptionError. */
export function loadOptions(source: unknown, given: object): LoadOptions {
  const isPaths =
    typeof source === "string" || (Array.isArray(source) && source.every((path) => typeof path === "string"));
  if (!isPaths)
    throw new OptionError("Dataset.load: expected a path, a list of paths, or the id of a data set of the hub");
  const { dataFiles, ...options } = knownOptions("Dataset.load", LOAD_OPTIONS, given);
  if (dataFiles !== undefined) throw new OptionError("Dataset.load: give the files themselves: Dataset.load(files)");
  return options;
}

const LOAD_OPTIONS = ["split", "name", "format", "resolve", "dataFiles"];

const EXTENSIONS: Readonly<Record<string, DataFormat>> = {
  jsonl: "jsonl",
  ndjson: "jsonl",
  json: "json",
  csv: "csv",
  tsv: "tsv",
  parquet: "parquet",
};
/** Files that describe a data set and are none. */
const DESCRIPTIONS = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];
/** Hugging Face's words for the parts of a data set, as they stand in file and folder names. */
const SPLIT_WORDS: Readonly<Record<string, string>> = {
  train: "train",
  training: "train",
  validation: "validation",
  valid: "validation",
  val: "validation",
  dev: "validation",
  test: "test",
  testing: "test",
  eval: "test",
  evaluation: "test",
};

/**
 * The data files of a file, a folder (those in it and below, all of one format, in the order of their paths), or a list of
 * files. Throws `FormatError` saying what was looked for.
 */
export async function findDataFiles(
  source: string | readonly string[],
  options: LoadOptions = {},
): Promise<readonly DataFile[]> {
  if (typeof source !== "string") {
    if (source.length === 0) throw new FormatError({ field: "data set", found: "no files", expected: "at least one" });
    const lists = await Promise.all(source.map((path) => findDataFiles(path, options)));
    return lists.flat();
  }
  const { split, format, resolve, ...rest } = options;
  const info = await stat(source).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return null;
    throw error;
  });
  if (info === null) {
    if (resolve === undefined || !isId(source)) throw notFound(source);
    const found = await resolve(source, split === undefined ? {} : { split });
    const local = { ...rest, ...(split !== undefined && { split }), ...(format && { format }) };
    return typeof found === "string" && (await stat(found)).isDirectory()
      ? ofFolder(found, local, true)
      : findDataFiles(found, local);
  }
  if (info.isDirectory()) return ofFolder(source, options);
  const named = splitOf(source.split(sep).at(-1)!);
  if (split !== undefined && split !== "train" && split !== named) {
    throw new FormatError({ file: source, field: "split", found: show(split), expected: named ?? "train" });
  }
  return [{ path: source, format: format ?? formatOf(source) ?? unknownFormat(source) }];
}

/** Which part of a data set a file is, by Hugging Face's naming: "data/train-00000-of-00002.parquet", "test/a.jsonl". */
export function splitOf(path: string): string | null {
  const parts = path.split(/[\\/]/);
  const numbered = /^(.+?)-\d{5}-of-\d{5}/.exec(parts.at(-1)!);
  if (numbered !== null) return SPLIT_WORDS[numbered[1]!] ?? numbered[1]!;
  for (const part of parts.toReversed()) {
    for (const word of part.toLowerCase().split(/[^a-z]+/)) {
      if (Object.hasOwn(SPLIT_WORDS, word)) return SPLIT_WORDS[word]!;
    }
  }
  return null;
}

/** The folder that a file of a repository of several data sets is in: "main" of "main/train-00000-of-00001.parquet". */
function subsetOf(path: string): string | null {
  const [first, ...rest] = path.split(sep);
  return rest.length === 0 || first === "data" || Object.hasOwn(SPLIT_WORDS, first!) ? null : first!;
}

function formatOf(path: string): DataFormat | null {
  const isZipped = path.endsWith(".gz");
  const extension = (isZipped ? path.slice(0, -3) : path).split(".").at(-1)!.toLowerCase();
  if (!Object.hasOwn(EXTENSIONS, extension)) return null;
  const format = EXTENSIONS[extension]!;
  return isZipped && (format === "parquet" || format === "json") ? null : format;
}

/** `isRepository`: of several data sets in it, each in a folder, one has to be chosen. */
async function ofFolder(
  folder: string,
  { split, name, format }: LoadOptions,
  isRepository = false,
): Promise<DataFile[]> {
  const all = (await listFiles(folder)).filter(
    (path) => name === undefined || subsetOf(relative(folder, path)) === name,
  );
  const files = all.flatMap((path) => {
    const found = format ?? formatOf(path);
    return found === null ? [] : [{ path, format: found, split: splitOf(relative(folder, path)) }];
  });
  const fail = (found: string, expected: string): never => {
    throw new FormatError({ file: folder, field: "data files", found, expected });
  };
  if (files.length === 0) {
    const arrow = all.some((path) => path.endsWith(".arrow"))
      ? "; write Arrow files (save_to_disk) out again, with dataset.to_parquet() or to_json()"
      : "";
    fail(all.length === 0 ? "none" : `only ${show(all.map((path) => relative(folder, path)))}`, `${KNOWN}${arrow}`);
  }
  const names = files.map((file) => file.split ?? "train");
  const splits = [...new Set(names)].sort();
  if (split === undefined && splits.length > 1) {
    throw new FormatError({ file: folder, field: "split", found: "none", expected: `one of ${splits.join(", ")}` });
  }
  if (split !== undefined && !splits.includes(split)) {
    const close = nearest(split, splits);
    const expected = `${splits.join(", ")}${close === null ? "" : ` (nearest: ${close})`}`;
    throw new FormatError({ file: folder, field: "split", found: show(split), expected });
  }
  const chosen = files.filter((_, i) => split === undefined || names[i] === split);
  const subsets = [...new Set(chosen.map(({ path }) => subsetOf(relative(folder, path)) ?? "(none)"))];
  if (isRepository && subsets.length > 1) {
    throw new FormatError({ file: folder, field: "name", found: "none", expected: `one of ${subsets.join(", ")}` });
  }
  const formats = [...new Set(chosen.map((file) => file.format))];
  if (formats.length > 1) fail(`files of ${formats.join(" and ")}`, "files of one format; list the ones you want");
  return chosen.map(({ path, format }) => ({ path, format }));
}

/** Regular files in a folder and below, in order; links to files are followed (a hub's cache is made of them). */
async function listFiles(folder: string): Promise<string[]> {
  const entries = (await readdir(folder, { withFileTypes: true })).filter(({ name }) => !name.startsWith("."));
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  const lists = await Promise.all(
    entries.map(async (entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) return listFiles(path);
      const isFile = entry.isFile() || (entry.isSymbolicLink() && (await stat(path)).isFile());
      return isFile && !DESCRIPTIONS.includes(entry.name) ? [path] : [];
    }),
  );
  return lists.flat();
}

const KNOWN = "a file that ends in .jsonl, .csv, .tsv (or these with .gz after them), .json or .parquet";

/** Like "organisation/name", and not the name of a file. */
const isId = (name: string): boolean => /^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(name) && formatOf(name) === null;

function unknownFormat(path: string): never {
  throw new FormatError({
    file: path,
    field: "format",
    found: show(path.split(sep).at(-1)),
    expected: `${KNOWN}; or say which with format`,
  });
}

function notFound(source: string): FormatError {
  const expected = 'a path, or a data set of the hub, "organisation/name"';
  return new FormatError({ file: source, field: "data set", found: "no such file or folder", expected });
}
