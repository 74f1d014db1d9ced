import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Rng } from "../util/rng.ts";
import { HubError, type HubErrorCode } from "./errors.ts";

/** What a request suffers instead of a plain answer. `after`: bytes of this answer's body that still come. */
export type Fault =
  | { readonly kind: "cut"; readonly after: number; readonly delayMs?: number }
  | { readonly kind: "hang"; readonly after?: number }
  | { readonly kind: "status"; readonly status: number; readonly headers?: Record<string, string> }
  | { readonly kind: "headers"; readonly headers: Record<string, string> }
  | { readonly kind: "redirect"; readonly to: string; readonly headers?: Record<string, string> }
  | { readonly kind: "json"; readonly json: unknown }
  | { readonly kind: "corrupt" }
  | { readonly kind: "ignore-range" }
  | { readonly kind: "wrong-range" }
  | { readonly kind: "too-long" }
  | { readonly kind: "slow"; readonly bytesPerMs: number };

export interface SeenRequest {
  /** `GET hub /org/name/resolve/…` or `GET cdn /blobs/…`, without a query. */
  readonly line: string;
  readonly authorization: string | undefined;
  readonly range: string | undefined;
}

interface FakeRepo {
  readonly commit: string;
  readonly files: ReadonlyMap<string, { readonly bytes: Buffer; readonly lfs: boolean }>;
  /** Refused with this X-Error-Code and status to who has no good token. */
  readonly locked: { readonly status: number; readonly code: string } | undefined;
}

// The tests are about what they pass, not about whose machine they run on.
for (const name of Object.keys(process.env)) {
  if (/^(HF_|HUGGING|TRANSFORMERS_OFFLINE|XDG_CACHE_HOME)/.test(name)) delete process.env[name];
}

/** An empty folder, in memory where the system has such a place: downloads sync each file, and disks take their time. */
export function temporaryFolder(): string {
  return mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "unsloth-hub-"));
}

/** An address at which nothing listens. */
export async function deadEndpoint(): Promise<string> {
  const hub = await FakeHub.start();
  await hub.close();
  return hub.endpoint;
}

/** Retries without the waits. */
export const FAST = { retries: 3, backoffMs: 1, headTimeoutMs: 5000, idleTimeoutMs: 5000 };

/** For assert.rejects: a HubError of this code with such a message. */
export function fails(code: HubErrorCode, message: RegExp) {
  return (error: unknown): true => {
    assert.ok(error instanceof HubError, String(error));
    assert.match(error.message, message);
    assert.equal(error.code, code, error.message);
    return true;
  };
}

export const TOKEN = "hf_abcdefghijklmnopqrstuvwxyz";

/** A hub at 127.0.0.1, and at another port the CDN that its large files are on. */
export class FakeHub {
  readonly requests: SeenRequest[] = [];
  /** Whether listings tell sizes and digests. */
  detailed = true;
  readonly #repos = new Map<string, FakeRepo>();
  readonly #faults: { readonly match: RegExp; readonly queue: Fault[]; readonly always: boolean }[] = [];
  readonly #hub: Server;
  readonly #cdn: Server;
  endpoint = "";
  cdn = "";

  private constructor() {
    this.#hub = createServer((request, response) => void this.#answer("hub", request, response));
    this.#cdn = createServer((request, response) => void this.#answer("cdn", request, response));
  }

  static async start(): Promise<FakeHub> {
    const hub = new FakeHub();
    for (const server of [hub.#hub, hub.#cdn]) {
      await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    }
    hub.endpoint = origin(hub.#hub);
    hub.cdn = origin(hub.#cdn);
    return hub;
  }

  /** Files whose name ends in .safetensors, .gguf or .parquet are large ones. Returns the commit. */
  add(id: string, files: Readonly<Record<string, string | Buffer>>, locked?: FakeRepo["locked"]): string {
    const entries = Object.entries(files).map(([name, content]) => {
      return [name, { bytes: Buffer.from(content), lfs: /\.(safetensors|gguf|parquet|bin)$/.test(name) }] as const;
    });
    const commit = sha1(JSON.stringify([id, entries.map(([name, { bytes }]) => [name, sha1(bytes)])]));
    this.#repos.set(id, { commit, files: new Map(entries), locked });
    return commit;
  }

  /** The next requests whose line matches suffer these, one each. */
  fault(match: RegExp, ...queue: Fault[]): void {
    this.#faults.push({ match, queue, always: false });
  }

  faultAlways(match: RegExp, fault: Fault): void {
    this.#faults.push({ match, queue: [fault], always: true });
  }

  heal(): void {
    this.#faults.length = 0;
  }

  count(match: RegExp): number {
    return this.requests.filter(({ line }) => match.test(line)).length;
  }

  async close(): Promise<void> {
    for (const server of [this.#hub, this.#cdn]) {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    }
  }

  async #answer(host: "hub" | "cdn", request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on("error", () => undefined);
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://x").pathname);
    const { authorization, range } = request.headers;
    const line = `${request.method} ${host} ${path}`;
    this.requests.push({ line, authorization, range });
    const fault = this.#nextFault(line);
    if (fault?.kind === "status") return void response.writeHead(fault.status, fault.headers).end();
    if (fault?.kind === "redirect") {
      return void response.writeHead(302, { location: fault.to, ...fault.headers }).end();
    }
    if (fault?.kind === "json") return sendJson(response, fault.json);
    if (fault?.kind === "hang" && fault.after === undefined) return;
    if (host === "cdn") return this.#serveBlob(path, request, response, fault);
    const api = /^\/api\/(models|datasets)\/(.+)\/revision\/(.+)$/.exec(path);
    const tree = /^\/api\/(models|datasets)\/(.+)\/tree\/(.+)$/.exec(path);
    const file = /^\/(datasets\/)?(.+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    const prefix = api?.[1] === "datasets" || tree?.[1] === "datasets" || file?.[1] ? "datasets/" : "";
    const repo = this.#repos.get(prefix + (api ?? tree ?? file)?.[2]);
    if (!repo) return refuse(response, 401, "RepoNotFound", "Invalid username or password.");
    if (repo.locked && authorization !== `Bearer ${TOKEN}`)
      return refuse(response, repo.locked.status, repo.locked.code);
    const revision = (api ?? tree ?? file)![3]!;
    if (revision !== repo.commit && revision !== "main" && revision !== "refs/pr/1") {
      return refuse(response, 404, "RevisionNotFound");
    }
    if (api) return sendJson(response, this.#listing(repo));
    if (tree) return sendJson(response, treeOf(repo));
    return this.#serveFile(repo, file![4]!, request, response, fault);
  }

  #nextFault(line: string): Fault | undefined {
    for (const { match, queue, always } of this.#faults) {
      if (match.test(line) && queue.length > 0) return always ? queue[0] : queue.shift();
    }
    return undefined;
  }

  #listing({ commit, files }: FakeRepo): unknown {
    const siblings = [...files].map(([rfilename, { bytes, lfs }]) => {
      if (!this.detailed) return { rfilename };
      const details = { rfilename, size: bytes.length, blobId: gitSha1(bytes) };
      return lfs ? { ...details, lfs: { sha256: sha256(bytes), size: bytes.length, pointerSize: 130 } } : details;
    });
    return { id: "x", sha: commit, siblings };
  }

  async #serveFile(
    { commit, files }: FakeRepo,
    name: string,
    request: IncomingMessage,
    response: ServerResponse,
    fault?: Fault,
  ): Promise<void> {
    response.setHeader("x-repo-commit", commit);
    const file = files.get(name);
    if (!file) return refuse(response, 404, "EntryNotFound");
    if (fault?.kind === "headers")
      for (const [key, value] of Object.entries(fault.headers)) response.setHeader(key, value);
    if (!file.lfs) {
      if (!response.hasHeader("etag")) response.setHeader("etag", `"${gitSha1(file.bytes)}"`);
      return void sendBytes(request, response, file.bytes, fault);
    }
    const digest = sha256(file.bytes);
    if (!response.hasHeader("x-linked-etag")) response.setHeader("x-linked-etag", `"${digest}"`);
    if (!response.hasHeader("x-linked-size")) response.setHeader("x-linked-size", file.bytes.length);
    response.writeHead(302, { location: `${this.cdn}/blobs/${digest}?signature=secret` }).end();
  }

  #serveBlob(path: string, request: IncomingMessage, response: ServerResponse, fault?: Fault): void {
    for (const { files } of this.#repos.values()) {
      for (const { bytes } of files.values()) {
        if (path === `/blobs/${sha256(bytes)}`) return void sendBytes(request, response, bytes, fault);
      }
    }
    response.writeHead(404).end();
  }
}

async function sendBytes(
  request: IncomingMessage,
  response: ServerResponse,
  whole: Buffer,
  fault: Fault | undefined,
): Promise<void> {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? -1);
  const ranged = from >= 0 && fault?.kind !== "ignore-range";
  if (ranged && from >= whole.length) return void response.writeHead(416).end();
  const start = !ranged ? 0 : fault?.kind === "wrong-range" ? from + 1 : from;
  let bytes = Buffer.from(whole.subarray(start));
  if (fault?.kind === "corrupt") bytes[bytes.length >> 1]! ^= 1;
  if (fault?.kind === "too-long") bytes = Buffer.concat([bytes, Buffer.from("more")]);
  const headers: Record<string, string | number> = { "content-length": bytes.length };
  if (ranged) headers["content-range"] = `bytes ${start}-${whole.length - 1}/${whole.length}`;
  response.writeHead(ranged ? 206 : 200, headers);
  if (request.method === "HEAD") return void response.end();
  if (fault?.kind === "cut" || fault?.kind === "hang") {
    response.write(bytes.subarray(0, fault.after), () => {
      // Later: a client drops what it has received but not yet read when the connection breaks.
      if (fault.kind === "cut") setTimeout(() => response.destroy(), fault.delayMs ?? 30);
    });
    return;
  }
  if (fault?.kind !== "slow") return void response.end(bytes);
  for (let at = 0; at < bytes.length && !response.destroyed; at += fault.bytesPerMs * 10) {
    response.write(bytes.subarray(at, at + fault.bytesPerMs * 10));
    await sleep(10);
  }
  response.end();
}

function refuse(response: ServerResponse, status: number, code: string, message = ""): void {
  response.writeHead(status, { "x-error-code": code, "x-error-message": message }).end();
}

function sendJson(response: ServerResponse, json: unknown): void {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(json));
}

function treeOf({ files }: FakeRepo): unknown {
  return [...files].map(([path, { bytes, lfs }]) => {
    const entry = { type: "file", path, size: bytes.length, oid: gitSha1(bytes) };
    return lfs ? { ...entry, lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 130 } } : entry;
  });
}

function origin(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

export function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function sha1(bytes: Buffer | string): string {
  return createHash("sha1").update(bytes).digest("hex");
}

export function gitSha1(bytes: Buffer): string {
  return createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
}

/** The files of a small model; weights of `length` seeded bytes. */
export function tinyModel(length = 3000, seed = 1): Record<string, string | Buffer> {
  return {
    ".gitattributes": "*.safetensors filter=lfs",
    "README.md": "# Tiny",
    "config.json": '{"model_type":"llama"}',
    "generation_config.json": "{}",
    "tokenizer.json": '{"version":"1.0"}',
    "model.safetensors": randomBytes(length, seed),
    "pytorch_model.bin": "a pickle",
  };
}

export function randomBytes(length: number, seed: number): Buffer {
  const rng = new Rng(seed);
  return Buffer.from(Uint8Array.from({ length }, () => rng.below(256)));
}
