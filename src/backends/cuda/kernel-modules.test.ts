import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { temporaryFolder } from "../../formats/files.test.support.ts";
import type { Driver, Handle } from "./driver.ts";
import { CudaError } from "./errors.ts";
import { Kernels } from "./kernels.ts";
import { Nvrtc } from "./nvrtc.ts";

/** Kernels of a driver and a compiler that only note what they are asked for; compilations on other threads end when told to. */
function fakes(t: TestContext) {
  process.env.UNSLOTH_CACHE = temporaryFolder(t);
  t.after(() => delete process.env.UNSLOTH_CACHE);
  const log: string[] = [];
  const ends: ((error?: Error) => void)[] = [];
  let handles = 0n;
  const driver = {
    try(name: string, cell: BigUint64Array): number {
      if (name === "cuModuleLoadData") {
        log.push("load");
        cell[0] = ++handles;
      }
      return 0;
    },
    create: (): Handle => ++handles,
    call: () => undefined,
  } as unknown as Driver;
  const code = new TextEncoder().encode("code");
  const nvrtc = {
    version: [13, 0],
    compile(_: string, name: string) {
      log.push(`compile ${name}`);
      return code;
    },
    compileLater(_: string, name: string) {
      log.push(`compile ${name} aside`);
      return new Promise((resolve, reject) => ends.push((error) => (error ? reject(error) : resolve(code))));
    },
  } as unknown as Nvrtc;
  const open = () => new Kernels(driver, nvrtc, "sm_90");
  return { kernels: open(), open, log, ends };
}

const T = { T: "bf16" };

test("modules compile beside one another, each once, and are there when `ready` says so", async (t) => {
  const { kernels, open, log, ends } = fakes(t);
  const [glu, norm, gluGrad] = [kernels.later("glu", T, "glu"), kernels.later("norm", T, "rms_norm"), kernels.later("glu", T, "glu_grad")]; // biome-ignore format: a list
  assert.deepEqual(log, ["compile glu.cu aside", "compile norm.cu aside"]);
  const ready = kernels.ready();
  for (const end of ends) end();
  await ready;
  assert.equal(kernels.ready(), null);
  assert.equal(new Set([glu(), norm(), gluGrad()]).size, 3);
  assert.deepEqual(log.slice(2), ["load", "load"]);
  // The cache has them for the next.
  const next = open();
  next.later("glu", T, "glu");
  assert.equal(next.ready(), null);
  assert.deepEqual(log.slice(4), ["load"]);
});

test("a kernel that is wanted before it is ready is compiled at once", async (t) => {
  const { kernels, log, ends } = fakes(t);
  const find = kernels.later("glu", T, "glu");
  const handle = find();
  assert.deepEqual(log, ["compile glu.cu aside", "compile glu.cu", "load"]);
  ends[0]!();
  await kernels.ready();
  assert.equal(find(), handle);
  assert.equal(log.length, 3);
});

test("what does not compile is told, and again whenever it is wanted", async (t) => {
  const { kernels, log, ends } = fakes(t);
  const find = kernels.later("glu", T, "glu");
  const ready = kernels.ready();
  ends[0]!(new CudaError("glu.cu does not compile"));
  await assert.rejects(Promise.resolve(ready), /glu\.cu does not compile/);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(kernels.ready(), null);
  find();
  assert.deepEqual(log, ["compile glu.cu aside", "compile glu.cu", "load"]);
  // Nothing is loaded for a device that is closed.
  kernels.later("norm", T, "rms_norm");
  kernels.dispose();
  ends[1]!();
  await kernels.ready();
  assert.equal(log.at(-1), "compile norm.cu aside");
});

let nvrtc: Nvrtc | null = null;
try {
  nvrtc = new Nvrtc();
} catch {
  // Skipped below.
}

test("NVRTC gives the same code aside, four programs at a time", { skip: nvrtc ? false : "no NVRTC" }, async () => {
  const sources = [1, 2, 3, 4, 5].map((i) => `extern "C" __global__ void k(float* y) { y[threadIdx.x] = ${i}.0f; }`);
  const codes = await Promise.all(sources.map((source) => nvrtc!.compileLater(source, "k.cu", "compute_80", [])));
  for (const [i, source] of sources.entries())
    assert.deepEqual(codes[i], nvrtc!.compile(source, "k.cu", "compute_80", []));
  await assert.rejects(nvrtc!.compileLater("nonsense", "k.cu", "compute_80", []), {
    name: "CudaError",
    message: /k\.cu does not compile for compute_80:[\s\S]*nonsense/,
  });
});
