import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { FormatError, show } from "../formats/errors.ts";
import { HubError, type HubProgress, type ResolveModelOptions, resolveModel } from "../hub/index.ts";
import { downloadLines } from "./download-progress.ts";

export interface LocateOptions extends Omit<ResolveModelOptions, "onProgress"> {
  /** Told how far a download is; when left out, a line on stderr shows it. */
  readonly onDownload?: ((progress: HubProgress) => void) | undefined;
}

/** A model on this machine's disk. */
export interface Located {
  readonly path: string;
  /** What adapters trained on it name as their base: the hub's id, or the path. */
  readonly nameOrPath: string;
}

/**
 * Where a model is: a folder, a .gguf file, or an id of the Hugging Face hub, which is downloaded as far as it is not in
 * the cache. Throws HubError.
 */
export async function locateModel(modelName: string, options: LocateOptions = {}): Promise<Located> {
  const path = resolve(modelName);
  if (existsSync(path)) return { path, nameOrPath: path };
  const { onDownload = downloadLines(modelName), ...rest } = options;
  try {
    return { path: await resolveModel(modelName, { ...rest, onProgress: onDownload }), nameOrPath: modelName };
  } catch (error) {
    if (!(error instanceof HubError) || error.code === "invalid-id") throw error;
    const { code, status, transient, cause } = error;
    throw new HubError(code, `no file or folder "${modelName}" is here; ${error.message}`, {
      status,
      transient,
      cause,
    });
  }
}

/** Whether a folder holds an adapter and no model. */
export function isAdapterFolder(path: string): boolean {
  return existsSync(join(path, "adapter_config.json")) && !existsSync(join(path, "config.json"));
}

/**
 * Where the base model of an adapter is, as its adapter_config.json names it. `options` are the caller's for the adapter:
 * its revision is not the base's. Throws FormatError naming the file, or HubError.
 */
export async function locateBase(adapterFolder: string, options: LocateOptions = {}): Promise<Located> {
  const file = join(adapterFolder, "adapter_config.json");
  const { base, revision } = readBase(file);
  const { ggufFile: _, allowPatterns: __, revision: ___, ...rest } = options;
  try {
    return await locateModel(base, { ...rest, revision });
  } catch (error) {
    if (!(error instanceof HubError)) throw error;
    const message = `${file}: base_model_name_or_path: ${error.message}. Give the base model's path as the model, and this folder as its adapter`;
    const { status, transient, cause } = error;
    throw new HubError(error.code, message, { status, transient, cause });
  }
}

function readBase(file: string): { base: string; revision: string | undefined } {
  let config: unknown;
  try {
    config = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new FormatError({ file, field: "the file", found: "no valid JSON", expected: "an adapter's config", cause });
  }
  const { base_model_name_or_path: base, revision } = (config ?? {}) as Record<string, unknown>;
  if (typeof base !== "string" || base === "") {
    const expected = "the base model's path, or its id on the hub";
    throw new FormatError({ file, field: "base_model_name_or_path", found: show(base), expected });
  }
  return { base, revision: typeof revision === "string" && revision !== "" ? revision : undefined };
}
