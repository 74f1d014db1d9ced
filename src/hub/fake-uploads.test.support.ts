import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export const COMMIT = "c".repeat(40);

/** The upload side of a hub at 127.0.0.1: takes everything, stores nothing but what it saw. */
export class FakeUploads {
  readonly seen: { readonly line: string; readonly body: Buffer; readonly authorization: string | undefined }[] = [];
  /** The next request whose line matches gets this status instead of an answer. */
  readonly troubles: [RegExp, number][] = [];
  endpoint = "";
  readonly #server: Server = createServer((request, response) => void this.#answer(request, response));

  static async start(): Promise<FakeUploads> {
    const hub = new FakeUploads();
    await new Promise<void>((done) => hub.#server.listen(0, "127.0.0.1", done));
    hub.endpoint = `http://127.0.0.1:${(hub.#server.address() as AddressInfo).port}`;
    return hub;
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const body = Buffer.concat(parts);
    const line = `${request.method} ${request.url}`;
    this.seen.push({ line, body, authorization: request.headers.authorization });
    const trouble = this.troubles.findIndex(([match]) => match.test(line));
    if (trouble >= 0) return void response.writeHead(this.troubles.splice(trouble, 1)[0]![1]).end();
    const json = (value: unknown) =>
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
    if (line === "GET /api/whoami-v2") return void json({ type: "user", id: "1", name: "me", orgs: [], auth: {} });
    if (line === "POST /api/repos/create") return void json({ url: `${this.endpoint}/org/tuned`, id: "1" });
    if (/preupload/.test(line)) {
      const { files } = JSON.parse(body.toString()) as { files: { path: string }[] };
      const uploadMode = (path: string) => (path.endsWith(".safetensors") ? "lfs" : "regular");
      return void json({ files: files.map(({ path }) => ({ path, uploadMode: uploadMode(path) })) });
    }
    if (/info\/lfs\/objects\/batch$/.test(line)) {
      const { objects } = JSON.parse(body.toString()) as { objects: { oid: string; size: number }[] };
      const actions = (oid: string) => ({ upload: { href: `${this.endpoint}/lfs/${oid}` } });
      return void json({
        transfer: "basic",
        objects: objects.map(({ oid, size }) => ({ oid, size, actions: actions(oid) })),
      });
    }
    if (/^PUT \/lfs\//.test(line)) return void response.writeHead(200).end();
    if (/\/commit\//.test(line)) return void json({ commitOid: COMMIT, commitUrl: "x", hookOutput: "" });
    response.writeHead(404).end();
  }
}
