import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { extname, join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { makeWorkplace } from "../cli/cli.test.support.ts";

const ROWS = Array.from({ length: 8 }, (_, i) => ({ instruction: `${i} + 1?`, input: "", output: `${i + 1}` }));

for (const guide of ["data", "chat-templates", "from-python", "generation"]) {
  test(`every example of docs/${guide}.md runs`, async () => {
    using workplace = await makeWorkplace();
    const { folder } = workplace;
    const text = readFileSync(new URL(`../../docs/${guide}.md`, import.meta.url), "utf8");
    const blocks = [...text.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code!);
    assert.ok(blocks.length >= 1, `${blocks.length} examples`);
    const lines = ROWS.map((row) => `${JSON.stringify(row)}\n`).join("");
    writeFileSync(join(folder, "train.jsonl"), lines);
    mkdirSync(join(folder, "folder"));
    for (const split of ["train", "test"]) writeFileSync(join(folder, "folder", `${split}.jsonl`), lines);
    const library = new URL(`../index${extname(import.meta.url)}`, import.meta.url).href;
    const [here, cache, log, error] = [process.cwd(), process.env.XDG_CACHE_HOME, console.log, console.error];
    process.chdir(folder);
    process.env.XDG_CACHE_HOME = join(folder, "cache");
    const printed: unknown[][] = [];
    console.log = (...values) => void printed.push(values);
    console.error = () => undefined;
    try {
      for (const [i, code] of blocks.entries()) {
        const file = join(folder, `example-${i}.mjs`);
        writeFileSync(file, code.replaceAll('from "unsloth"', `from ${JSON.stringify(library)}`));
        await import(pathToFileURL(file).href);
      }
    } finally {
      process.chdir(here);
      [console.log, console.error] = [log, error];
      if (cache === undefined) delete process.env.XDG_CACHE_HOME;
      else process.env.XDG_CACHE_HOME = cache;
    }
    // What a comment says is printed.
    for (const [, said] of text.matchAll(/^console\.log\(.*\); \/\/ (.*)$/gm)) {
      assert.ok(
        printed.some((values) => values.join(" ") === said),
        said,
      );
    }
  });
}
