import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { extname, join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { FakeHub, TOKEN, temporaryFolder, tinyModel } from "./fake-hub.test.support.ts";
import { FakeUploads } from "./fake-uploads.test.support.ts";

const GUIDE = new URL("../../docs/hub.md", import.meta.url);

test("every example of the guide runs, in order", async () => {
  const blocks = [...readFileSync(GUIDE, "utf8").matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code!);
  assert.ok(blocks.length >= 5, `${blocks.length} examples`);
  const hub = await FakeHub.start();
  const uploads = await FakeUploads.start();
  const folder = temporaryFolder();
  hub.add("Qwen/Qwen2.5-0.5B-Instruct", tinyModel());
  hub.add("Qwen/Qwen2.5-0.5B-Instruct-GGUF", { "qwen2.5-0.5b-instruct-q4_k_m.gguf": "q" });
  hub.add("datasets/openai/gsm8k", { "README.md": "", "main/train.parquet": "p", "main/test.parquet": "q" });
  hub.add("meta-llama/Llama-3.2-1B", tinyModel(), { status: 401, code: "GatedRepo" });
  mkdirSync(join(folder, "outputs"));
  writeFileSync(join(folder, "outputs", "adapter_config.json"), "{}");
  const environment = { ...process.env };
  const here = process.cwd();
  process.chdir(folder);
  try {
    for (const [i, code] of blocks.entries()) {
      const endpoint = code.includes("pushToHub") ? uploads.endpoint : hub.endpoint;
      Object.assign(process.env, { HF_HOME: folder, HF_ENDPOINT: endpoint, HF_TOKEN: TOKEN.replace("a", "b") });
      const library = new URL(`./index${extname(import.meta.url)}`, import.meta.url).href;
      const file = join(folder, `example-${i}.mjs`);
      writeFileSync(file, code.replaceAll('"unsloth"', JSON.stringify(library)));
      await import(pathToFileURL(file).href);
    }
  } finally {
    process.chdir(here);
    for (const name of ["HF_HOME", "HF_ENDPOINT", "HF_TOKEN"]) {
      if (environment[name] === undefined) delete process.env[name];
    }
    rmSync(folder, { recursive: true, force: true });
    uploads.close();
    await hub.close();
  }
  assert.equal(uploads.seen.filter(({ line }) => /commit/.test(line)).length, 1);
});
