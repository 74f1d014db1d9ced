import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../formats/files.test.support.ts";
import { float, int, long, moduleSource, packArguments, pointer } from "./kernels.ts";
import { CUBLASLT, CUDNN, DRIVER, loadLibrary, NVRTC } from "./library.ts";
import { compileCached } from "./nvrtc.ts";
import { cudaStatus } from "./status.ts";
import type { Target } from "./target.ts";

/** What needs no GPU: the cache of compiled kernels, argument blocks, looking for libraries. */

function compiler(version: readonly [number, number] = [12, 4]) {
  const compiled: string[] = [];
  return {
    compiled,
    version,
    compile(source: string): Uint8Array {
      compiled.push(source);
      return new TextEncoder().encode(`code of ${source}`);
    },
  };
}

test("kernels are compiled once for a source, options, target and compiler version", (t) => {
  const folder = temporaryFolder(t);
  const nvrtc = compiler();
  const code = (source: string, target: Target = "sm_90", options: string[] = [], from = nvrtc) =>
    new TextDecoder().decode(compileCached(from, source, "k.cu", target, options, folder));
  assert.equal(code("a"), "code of a");
  assert.equal(code("a"), "code of a");
  assert.deepEqual(nvrtc.compiled, ["a"]);
  code("b");
  code("a", "sm_80");
  code("a", "sm_90", ["-O1"]);
  assert.deepEqual(nvrtc.compiled, ["a", "b", "a", "a"]);
  const newer = compiler([13, 0]);
  code("a", "sm_90", [], newer);
  assert.deepEqual(newer.compiled, ["a"]);
  assert.equal(readdirSync(folder).length, 5);
});

test("machine code and PTX for the same capability are different files, which say so", (t) => {
  const folder = temporaryFolder(t);
  const nvrtc = compiler();
  for (const target of ["sm_75", "compute_75", "compute_75", "sm_75"] as const) {
    compileCached(nvrtc, "a", "k.cu", target, [], folder);
  }
  assert.deepEqual(nvrtc.compiled, ["a", "a"]);
  const names = readdirSync(folder).map((name) => name.replace(/-[0-9a-f]{32}\./, "-KEY."));
  assert.deepEqual(names.sort(), ["k_cu-compute_75-KEY.ptx", "k_cu-sm_75-KEY.cubin"]);
});

test("a damaged cache file is compiled again and replaced", (t) => {
  const folder = temporaryFolder(t);
  const nvrtc = compiler();
  compileCached(nvrtc, "a", "k.cu", "sm_90", [], folder);
  const file = join(folder, readdirSync(folder)[0]!);
  const whole = readFileSync(file);
  const flipped = Buffer.from(whole);
  flipped[flipped.length - 1]! ^= 1;
  for (const damaged of [whole.subarray(0, whole.length - 3), Buffer.alloc(0), Buffer.from("short"), flipped]) {
    writeFileSync(file, damaged);
    assert.equal(new TextDecoder().decode(compileCached(nvrtc, "a", "k.cu", "sm_90", [], folder)), "code of a");
    assert.deepEqual(readFileSync(file), whole);
  }
  assert.equal(nvrtc.compiled.length, 5);
});

test("a cache that cannot be written to costs no more than the compilation", () => {
  const nvrtc = compiler();
  const folder = join(import.meta.filename, "not-a-folder");
  assert.equal(new TextDecoder().decode(compileCached(nvrtc, "a", "k.cu", "sm_90", [], folder)), "code of a");
});

test("arguments are laid out as C lays out a parameter block", () => {
  const bytes = packArguments([int(7), pointer(2 ** 40 + 1), float(1.5), long(-2), int(true)]);
  const view = new DataView(bytes.buffer);
  assert.equal(bytes.byteLength, 36);
  assert.equal(view.getInt32(0, true), 7);
  assert.equal(view.getBigUint64(8, true), 2n ** 40n + 1n);
  assert.equal(view.getFloat32(16, true), 1.5);
  assert.equal(view.getBigInt64(24, true), -2n);
  assert.equal(view.getInt32(32, true), 1);
});

test("a module's source has the shared part, its names, then its own", () => {
  const source = moduleSource("glu", { T: "bf16" });
  const at = ["struct bf16", "#define T bf16", "KERNEL glu("].map((part) => source.indexOf(part));
  assert.ok(at.every((place, i) => place >= 0 && (i === 0 || place > at[i - 1]!)));
});

test("a library that is nowhere is named with where it was looked for and how to get it", () => {
  const missing = { name: "Nothing", files: ["libunsloth-nothing.so.1"], wheels: [], remedy: "install Nothing" };
  assert.throws(() => loadLibrary(missing), {
    name: "CudaUnavailableError",
    message: /Nothing was not found \(looked for libunsloth-nothing\.so\.1 in the loader's path.*\): install Nothing/,
  });
});

test("the status tells of every library, and never throws", () => {
  const { libraries, problems, available } = cudaStatus();
  assert.deepEqual(
    libraries.map(({ name }) => name),
    [DRIVER, NVRTC, CUBLASLT, CUDNN].map(({ name }) => name),
  );
  assert.deepEqual(
    libraries.filter(({ optional }) => optional).map(({ name }) => name),
    [CUDNN.name],
  );
  assert.equal(available, problems.length === 0);
});
