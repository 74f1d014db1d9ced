import assert from "node:assert/strict";
import { it } from "node:test";
import { openRuntime } from "./index.ts";

it("prefers the native kernels and says why when they are not used", async () => {
  const native = await openRuntime({ threads: 1 });
  assert.equal(native.runtime.kind, native.reason === null ? "native" : "wasm");
  const wasm = await openRuntime({ prefer: "wasm", threads: 1 });
  assert.equal(wasm.runtime.kind, "wasm");
  assert.equal(wasm.reason, "WebAssembly was asked for");
  native.runtime.dispose();
  wasm.runtime.dispose();
});

it("does not fall back from a mistake", async () => {
  await assert.rejects(openRuntime({ threads: 0 }), RangeError);
  await assert.rejects(openRuntime({ isa: "avx3" }), /avx3/);
  await assert.rejects(openRuntime({ prefer: "wasm", isa: "avx2" }), /leave it out/);
});
