import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { it } from "node:test";
import { fileURLToPath } from "node:url";
import { encodeInstruction } from "./runtime.ts";
import { loadWasm } from "./wasm.ts";

const file = process.env.UNSLOTH_TEST_WASM;

it("was built from the current sources", { skip: file !== undefined }, () => {
  const script = fileURLToPath(new URL("../../../scripts/build-wasm.mjs", import.meta.url));
  execFileSync(process.execPath, [script, "--check"], { stdio: ["ignore", "inherit", "inherit"] });
});

it("grows to beyond 2 GiB and says where it ends", async () => {
  using runtime = await loadWasm({ file, threads: 1 });
  const first = runtime.alloc(2 ** 31 - 2 ** 20);
  const high = runtime.alloc(2 ** 20);
  const higher = runtime.alloc(2 ** 21);
  assert.ok(higher > 2 ** 31);
  runtime.bytes(higher, 8).set([1, 2, 3, 4, 5, 6, 7, 8]);
  const words = encodeInstruction(runtime, "copy", [8, higher, high]);
  const program = runtime.alloc(words.byteLength);
  runtime.bytes(program, words.byteLength).set(new Uint8Array(words.buffer));
  await runtime.run(program, words.length);
  assert.deepEqual([...runtime.bytes(high, 8)], [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.throws(
    () => runtime.alloc(2 ** 31),
    /not enough memory for 2\.0 GiB more \(2\.0 GiB allocated\); .* 4 GiB at most/,
  );
  runtime.free(first);
});

it("does not keep the process alive", () => {
  // Compiled tests load compiled files.
  const extension = import.meta.url.slice(import.meta.url.lastIndexOf("."));
  const loader = new URL(`./wasm${extension}`, import.meta.url).href;
  const code = `const { loadWasm } = await import(${JSON.stringify(loader)});
    const runtime = await loadWasm(${JSON.stringify({ file, threads: 2 })});
    console.log(runtime.kernels[0], runtime.threads);`;
  const arguments_ = ["--import", "tsx", "--input-type=module", "-e", code];
  assert.equal(execFileSync(process.execPath, arguments_, { encoding: "utf8", timeout: 15000 }), "matmul 2\n");
});

it("reports a module that is not there or not WebAssembly", async () => {
  await assert.rejects(loadWasm({ file: "/nowhere.wasm" }), /nowhere/);
  await assert.rejects(loadWasm({ file: fileURLToPath(import.meta.url) }), /WebAssembly/);
});
