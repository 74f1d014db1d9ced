import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { show } from "../formats/errors.ts";
import { HubError } from "./errors.ts";
import { checkRevision, parseRepo, type RepoType } from "./names.ts";
import type { HubProgress } from "./progress.ts";
import { type Select, selectData, selectGguf, selectModel, selectPatterns } from "./select.ts";
import { type HubOptions, hubSettings } from "./settings.ts";
import { getSnapshot } from "./snapshot.ts";

export interface ResolveOptions extends HubOptions {
  /** Branch, tag, `refs/pr/N` or commit hash. Default `main`. */
  readonly revision?: string | undefined;
  /**
   * Files to fetch instead of those a model or data set needs, as patterns of Python's fnmatch (`*` also matches "/").
   * Pickles are never fetched.
   */
  readonly allowPatterns?: string | readonly string[] | undefined;
  readonly onProgress?: ((progress: HubProgress) => void) | undefined;
}

export interface ResolveModelOptions extends ResolveOptions {
  /** A .gguf file of the repository, or a part of its name that no other has; as `org/name:file`. */
  readonly ggufFile?: string | undefined;
}

/**
 * The local folder of a model: `idOrPath` itself if there is such a file or folder, else that of the hub's model
 * `org/name` in Hugging Face's cache, downloaded as far as it is not there. Of `org/name:file.gguf` (or `org/name:Q4_K_M`,
 * if only one file's name has that in it) the local file. Throws HubError; FormatError for a malformed index.
 */
export async function resolveModel(idOrPath: string, options: ResolveModelOptions = {}): Promise<string> {
  if (existsSync(idOrPath)) return idOrPath;
  const colon = idOrPath.indexOf(":");
  const id = colon < 0 ? idOrPath : idOrPath.slice(0, colon);
  const gguf = options.ggufFile ?? (colon < 0 ? undefined : idOrPath.slice(colon + 1));
  if (gguf === "") throw new HubError("invalid-id", `model ${show(idOrPath)}: expected a .gguf file after ":"`);
  const { folder, files } = await resolveRepo("model", idOrPath, id, gguf ? selectGguf(gguf) : selectModel, options);
  return gguf && !options.allowPatterns ? resolve(folder, files[0]!) : folder;
}

/**
 * The local folder of a data set: `idOrPath` itself if there is such a file or folder, else that of the hub's data set in
 * Hugging Face's cache, with its Parquet, JSON, JSON Lines, CSV, TSV and text files. Throws HubError.
 */
export async function resolveDataset(idOrPath: string, options: ResolveOptions = {}): Promise<string> {
  if (existsSync(idOrPath)) return idOrPath;
  return (await resolveRepo("dataset", idOrPath, idOrPath, selectData, options)).folder;
}

async function resolveRepo(type: RepoType, given: string, id: string, usual: Select, options: ResolveOptions) {
  if (looksLikePath(given)) {
    const message = `there is no file or folder ${show(given)} (looked at ${resolve(given)}), and it is no ${type} id of the hub ("organisation/name")`;
    throw new HubError("invalid-id", message);
  }
  const patterns = options.allowPatterns;
  const select = patterns === undefined ? usual : selectPatterns(typeof patterns === "string" ? [patterns] : patterns);
  const repo = parseRepo(type, id);
  const revision = checkRevision(options.revision ?? "main");
  return getSnapshot({ repo, revision, select, onProgress: options.onProgress }, hubSettings(options));
}

function looksLikePath(text: string): boolean {
  return /^([./~]|[A-Za-z]:[\\/])/.test(text) || text.includes("\\") || text.replace(/:.*/, "").split("/").length > 2;
}
