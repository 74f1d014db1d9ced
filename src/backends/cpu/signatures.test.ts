import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { it } from "node:test";
import { loadNative } from "./native.ts";
import { loadWasm } from "./wasm.ts";

/** The argument letters of each kernel as native/kernels/README.md describes them. */
function documented(): Map<string, string> {
  const text = readFileSync(new URL("../../../native/kernels/README.md", import.meta.url), "utf8");
  const letters = new Map<string, string>();
  for (const [, name, args] of text.matchAll(/^\| (\w+) \| ([^|]+) \|/gm)) {
    if (name === "kernel") continue;
    const rest = args!.replace(/^as (\w+) up to (\w+), then /, "");
    const base = rest === args ? "" : letters.get(name!.replace(/_grad$/, ""))!.replace(/pp$/, "");
    const flat = rest.replaceAll(/\([^)]*\)/g, "").replaceAll(/\[[^\]]*\]/g, "");
    letters.set(name!, base + [...flat.matchAll(/(?:^|, ?)([ipfW]) \w/g)].map((match) => match[1]).join(""));
  }
  return letters;
}

it("the kernels take the arguments their README says, in every build", async () => {
  const expected = documented();
  const runtimes = [
    loadNative({ file: process.env.UNSLOTH_TEST_ADDON, threads: 1 }),
    await loadWasm({ file: process.env.UNSLOTH_TEST_WASM, threads: 1 }),
  ];
  for (const runtime of runtimes) {
    const actual = runtime.signatures.map((s, i) => [runtime.kernels[i]!, s.replaceAll(" ", "")] as const);
    assert.deepEqual(Object.fromEntries(actual), Object.fromEntries(expected));
    runtime.dispose();
  }
});
