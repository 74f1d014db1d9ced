import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { Backend } from "../backends/backend.ts";
import { type CudaOptions, type CudaStatus, CudaUnavailableError } from "../backends/cuda/index.ts";
import { SketchCudaBackend } from "../backends/cuda/sketch.ts";
import { weightOptions } from "../models/load/weight-options.ts";
import { type DeviceOptions, type DeviceSources, isBfloat16Supported, openDevice, storedAs } from "./device.ts";
import { openSketchDevice } from "./sketch-device.ts";

const card = {
  id: 0,
  index: 0,
  name: "X",
  bytes: 2 ** 34,
  multiprocessors: 80,
  sharedBytes: 2 ** 16,
  l2Bytes: 2 ** 22,
};

function statusOf(computeCapability: number | null, problems: readonly string[] = []): CudaStatus {
  const path = computeCapability === null ? null : "/lib/libcuda.so.1";
  return {
    available: computeCapability !== null && problems.length === 0,
    libraries: [{ name: "CUDA driver", path, remedy: "install it", optional: false }],
    driverVersion: null,
    devices: computeCapability === null ? [] : [{ ...card, computeCapability }],
    problems: computeCapability === null ? ["CUDA driver was not found"] : problems,
  };
}

/** A machine with a card of this capability (null: none), that opens unless `failure` says otherwise. */
function machine(computeCapability: number | null, problems: readonly string[] = [], failure?: Error): DeviceSources {
  return {
    status: () => statusOf(computeCapability, problems),
    openCuda: async (options: CudaOptions = {}) => {
      const error = computeCapability === null ? new CudaUnavailableError("CUDA driver was not found") : failure;
      if (error) throw error;
      return new SketchCudaBackend(options, { ...card, computeCapability: computeCapability! });
    },
  };
}

async function opened(t: TestContext, options: DeviceOptions, sources: DeviceSources) {
  const lines: string[] = [];
  const backend: Backend = await openDevice({ onDevice: (line) => lines.push(line), ...options }, sources);
  t.after(() => backend.dispose());
  return { backend, lines };
}

test("auto is the GPU where one can be used, and says so", async (t) => {
  const { backend, lines } = await opened(t, {}, machine(90));
  assert.equal(backend.name, "cuda");
  assert.deepEqual(lines, [`device: ${backend.description}`]);
});

test("auto is the CPU without a driver, with a library missing, or where the card does not open, and says why", async (t) => {
  const refused = new CudaUnavailableError("the card is too old");
  for (const [sources, why] of [
    [machine(null), "there is no NVIDIA driver"],
    [machine(90, ["NVRTC was not found: install it"]), "the GPU cannot be used: NVRTC was not found: install it"],
    [machine(60, [], refused), "the GPU cannot be used: the card is too old"],
  ] as const) {
    const { backend, lines } = await opened(t, {}, sources);
    assert.equal(backend.name, "cpu");
    assert.deepEqual(lines, [`device: the CPU, as ${why}`]);
  }
  const broken = openDevice({}, machine(90, [], new Error("illegal address")));
  await assert.rejects(broken, /illegal address/, "an error that is no lack of a GPU is not hidden");
});

test("a number of threads asks for the CPU; cpu says nothing", async (t) => {
  for (const options of [{ threads: 1 }, { device: "cpu", threads: 1 }] as const) {
    const { backend, lines } = await opened(t, options, machine(90));
    assert.equal(backend.name, "cpu");
    assert.deepEqual(lines, []);
  }
});

test("cuda without a GPU is a CudaUnavailableError with the remedy, and no fallback", async () => {
  await assert.rejects(openDevice({ device: "cuda" }, machine(null)), {
    name: "CudaUnavailableError",
    message: 'device: "cuda": CUDA driver was not found',
  });
  await assert.rejects(openDevice({ device: "cuda", threads: 2 }, machine(90)), { name: "OptionError" });
});

test("activations: bfloat16 from 8.0, float16 below, or what was asked for and the card has", async (t) => {
  const typeOn = async (capability: number, options: DeviceOptions = {}) =>
    (await opened(t, { device: "cuda", ...options }, machine(capability))).backend.computeDtype;
  assert.deepEqual(
    [await typeOn(90), await typeOn(80), await typeOn(75), await typeOn(70)],
    ["bf16", "bf16", "f16", "f16"],
  );
  assert.equal(await typeOn(90, { dtype: "float16" }), "f16");
  assert.equal(await typeOn(75, { dtype: "float32" }), "f32");
  await assert.rejects(typeOn(75, { dtype: "bfloat16" }), /X has no bfloat16.*use float16 or float32/);
});

test("fp8 needs compute capability 8.9, bfloat16, and a GPU at all", async (t) => {
  const { backend } = await opened(t, { device: "cuda", fp8: true }, machine(89));
  assert.equal((backend as SketchCudaBackend).fp8, true);
  await assert.rejects(openDevice({ device: "cuda", fp8: true }, machine(80)), /fp8 needs compute capability 8\.9/);
  await assert.rejects(openDevice({ device: "cuda", fp8: true, dtype: "float16" }, machine(90)), /computing in f16/);
  await assert.rejects(openDevice({ device: "cpu", fp8: true }, machine(90)), { name: "OptionError" });
  await assert.rejects(openDevice({ fp8: true }, machine(null)), /fp8 needs a GPU, and there is none/);
});

test("isBfloat16Supported goes by the card", () => {
  const supported = (capability: number | null) => isBfloat16Supported(() => statusOf(capability));
  assert.deepEqual([supported(90), supported(80), supported(75), supported(null)], [true, true, false, false]);
});

test("matrices are kept as a GPU multiplies them, on a CPU as they are, and float32 where all is trained", () => {
  const cuda = { name: "cuda", computeDtype: "bf16" } as const;
  const cpu = { name: "cpu" } as const;
  assert.equal(storedAs(cuda, null, {}), "bfloat16");
  assert.equal(storedAs(cuda, "float32", {}), "float32");
  assert.equal(storedAs(cuda, "bfloat16", { fullFinetuning: true }), null);
  assert.equal(storedAs(cpu, null, {}), null);
  assert.equal(storedAs(cpu, "bfloat16", { fullFinetuning: true }), "bfloat16", "which loading refuses");
});

test("one way to load weights; 4 bits when none is asked for", () => {
  const ways = (options: Parameters<typeof weightOptions>[1]) => weightOptions("x", options);
  assert.deepEqual(ways({}), { loadIn4bit: true, loadIn8bit: false, fullFinetuning: false });
  assert.deepEqual(ways({ loadIn4bit: false }), { loadIn4bit: false, loadIn8bit: false, fullFinetuning: false });
  assert.deepEqual(ways({ loadIn16bit: true }), { loadIn4bit: false, loadIn8bit: false, fullFinetuning: false });
  assert.deepEqual(ways({ loadIn8bit: true }), { loadIn4bit: false, loadIn8bit: true, fullFinetuning: false });
  assert.deepEqual(ways({ fullFinetuning: true }), { loadIn4bit: false, loadIn8bit: false, fullFinetuning: true });
  assert.throws(() => ways({ loadIn4bit: true, loadIn8bit: true }), /x: loadIn4bit and loadIn8bit contradict/);
  assert.throws(() => ways({ loadIn16bit: true, fullFinetuning: true }), /fullFinetuning trains float32 weights/);
});

test("planning for a GPU needs none when it is said how large it is", async (t) => {
  const place = await openSketchDevice({ device: "cuda" }, 24 * 2 ** 30, () => statusOf(null));
  t.after(() => place.backend.dispose());
  assert.deepEqual([place.backend.name, place.memory], ["cuda", 24 * 2 ** 30]);
  assert.match(place.warnings[0]!, /not in this machine/);
  await assert.rejects(
    openSketchDevice({ device: "cuda" }, undefined, () => statusOf(null)),
    /how much memory there is/,
  );
  const here = await openSketchDevice({}, undefined, () => statusOf(90));
  assert.deepEqual([here.backend.name, here.memory], ["cuda", Math.floor(0.94 * card.bytes)]);
});
