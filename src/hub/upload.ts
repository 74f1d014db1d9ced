import { readdir, stat } from "node:fs/promises";
import { basename, join, relative, sep } from "node:path";
import { pathToFileURL } from "node:url";
import { reason } from "../formats/errors.ts";
import { withRetries } from "./backoff.ts";
import { HubError, systemCode } from "./errors.ts";
import { parseRepo, type RepoType, repoPath } from "./names.ts";
import { type HubOptions, type HubSettings, hubSettings } from "./settings.ts";

export interface PushOptions extends Pick<HubOptions, "endpoint" | "token" | "http" | "signal"> {
  /** Visibility of a repository that is created by this; an existing one keeps its own. Default: the account's. */
  readonly private?: boolean | undefined;
  /** Default "Upload <folder> with unsloth". */
  readonly commitMessage?: string | undefined;
  /** Branch to commit to, which must exist. Default `main`. */
  readonly revision?: string | undefined;
  readonly repoType?: RepoType | undefined;
}

export interface Pushed {
  /** `organisation/name`. */
  readonly repoId: string;
  /** The repository's page. */
  readonly url: string;
  /** The commit's hash; undefined if the hub did not tell. */
  readonly commit: string | undefined;
  /** Paths of the files uploaded. */
  readonly files: readonly string[];
}

/**
 * Uploads every file of a folder (but hidden ones) to a repository of the hub, as one commit; the repository is created
 * if there is none. A `repoId` without an organisation is the token's account's. Needs a token that may write.
 * Throws HubError.
 */
export async function pushToHub(folder: string, repoId: string, options: PushOptions = {}): Promise<Pushed> {
  const type = options.repoType ?? "model";
  parseRepo(type, repoId);
  const settings = hubSettings(options);
  const accessToken = settings.token;
  if (!accessToken?.startsWith("hf_")) {
    const found = accessToken ? 'one that does not start with "hf_"' : "none";
    const message = `token (HF_TOKEN): found ${found}; uploading needs one with write access, from ${settings.endpoint}/settings/tokens`;
    throw new HubError("unauthorized", message);
  }
  const files = await listFolder(folder);
  // Loaded here: whoever uploads nothing does not pay for it.
  const hub = await import("@huggingface/hub");
  const common = { accessToken, hubUrl: settings.endpoint, fetch: patientFetch(settings) };
  const id = repoId.includes("/") ? repoId : `${(await told(repoId, () => hub.whoAmI(common))).name}/${repoId}`;
  const repo = { type, name: id };
  await told(id, () => createIfMissing(() => hub.createRepo({ ...common, repo, ...visibility(options.private) })));
  const output = await told(id, () =>
    hub.uploadFiles({
      ...common,
      repo,
      files: files.map((path) => ({ path, content: pathToFileURL(join(folder, path)) })),
      commitTitle: options.commitMessage ?? `Upload ${basename(folder)} with unsloth`,
      branch: options.revision ?? "main",
      // The plain LFS protocol, which every server speaks.
      useXet: false,
      ...(settings.signal && { abortSignal: settings.signal }),
    }),
  );
  return { repoId: id, url: `${settings.endpoint}/${repoPath({ type, id })}`, commit: output?.commit.oid, files };
}

function visibility(isPrivate: boolean | undefined) {
  return isPrivate === undefined ? {} : { visibility: isPrivate ? ("private" as const) : ("public" as const) };
}

async function createIfMissing(create: () => Promise<unknown>): Promise<void> {
  try {
    await create();
  } catch (error) {
    if (statusOf(error) !== 409) throw error;
  }
}

/** Files below a folder, as paths with forward slashes, sorted; hidden files and folders are left out. */
async function listFolder(folder: string): Promise<string[]> {
  let entries: Awaited<ReturnType<typeof readFolder>>;
  try {
    entries = await readFolder(folder);
  } catch (error) {
    const found = systemCode(error) ?? reason(error);
    throw new HubError("invalid-option", `folder ${folder}: found ${found}; expected a folder`, { cause: error });
  }
  const paths: string[] = [];
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    const name = relative(folder, path).split(sep).join("/");
    // Links to files are followed: a snapshot of the cache consists of them.
    if (!/(^|\/)\./.test(name) && (await stat(path)).isFile()) paths.push(name);
  }
  if (paths.length === 0) throw new HubError("invalid-option", `folder ${folder}: found no files; expected a model's`);
  return paths.sort();
}

function readFolder(folder: string) {
  return readdir(folder, { recursive: true, withFileTypes: true });
}

/** fetch with retries of what may be repeated, and a limit to each request's time that leaves room for its body. */
function patientFetch({ http, signal }: HubSettings): typeof fetch {
  return (input, init = {}) =>
    withRetries(http, signal, async () => {
      const bytes = init.body instanceof Blob ? init.body.size : 0;
      // A commit of many files takes a server longer than the next bytes of a download.
      const limit = AbortSignal.timeout(Math.ceil(4 * http.idleTimeoutMs + bytes / SLOWEST_BYTES_PER_MS));
      const signals = [limit, init.signal, signal].filter((given) => given instanceof AbortSignal);
      let response: Response;
      try {
        response = await fetch(input, { ...init, signal: AbortSignal.any(signals) });
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new HubError("unreachable", `${address(input)}: ${detail(error)}`, { transient: true, cause: error });
      }
      if (![429, 502, 503, 504].includes(response.status)) return response;
      await response.body?.cancel().catch(() => undefined);
      const message = `${address(input)}: the server is busy (${response.status})`;
      throw new HubError("server-error", message, { status: response.status, transient: true });
    });
}

const SLOWEST_BYTES_PER_MS = 64;

function address(input: Parameters<typeof fetch>[0]): string {
  const url = new URL(input instanceof Request ? input.url : input);
  return url.origin + url.pathname;
}

function detail(error: unknown): string {
  return error instanceof Error && error.cause instanceof Error ? error.cause.message : reason(error);
}

function statusOf(error: unknown): number | undefined {
  return error instanceof Error && "statusCode" in error && typeof error.statusCode === "number"
    ? error.statusCode
    : undefined;
}

/** The package's errors as ours. */
async function told<T>(id: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    const status = statusOf(error);
    if (status === undefined) throw error;
    const said = reason(error).slice(0, 300);
    if (status === 401 || status === 403) {
      const message = `${id}: the token (HF_TOKEN) may not write there (${status}): ${said}`;
      throw new HubError("unauthorized", message, { status, cause: error });
    }
    const code = status === 404 ? "repo-not-found" : "server-error";
    throw new HubError(code, `${id}: the upload failed (${status}): ${said}`, { status, cause: error });
  }
}
