import assert from "node:assert/strict";
import { test } from "node:test";
import { temporaryFolder } from "../../formats/files.test.support.ts";
import { CudaBackend } from "./backend.ts";
import { CollectingBackend } from "./collect.test.support.ts";
import type { DeviceInfo, Driver } from "./driver.ts";
import { CudaError, CudaUnavailableError } from "./errors.ts";
import { Kernels } from "./kernels.ts";
import type { Nvrtc } from "./nvrtc.ts";
import { OverlappingLaunches } from "./overlap.ts";
import { kernelNote } from "./status.ts";
import { type Compiler, presented, ptxCapability, refusedPtx, type Target, targetFor, targetText } from "./target.ts";

/** What kernels are compiled to, with compilers, drivers and cards that are not there. */

const KIB = 1024;
const H100: DeviceInfo = {
  id: 0,
  index: 0,
  name: "H100",
  bytes: 80 * 2 ** 30,
  computeCapability: 90,
  multiprocessors: 132,
  sharedBytes: 227 * KIB,
  l2Bytes: 50 * 2 ** 20,
};
const card = (computeCapability: number) => ({ ...H100, name: "a card", computeCapability });

const V11: Compiler = { version: [11, 4], supported: [35, 50, 52, 60, 61, 70, 72, 75, 80, 86, 87] };
const V12: Compiler = { version: [12, 4], supported: [50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90] };
const V13: Compiler = { version: [13, 0], supported: [75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121] };
const SILENT: Compiler = { version: [11, 1], supported: null };

test("a card that NVRTC knows gets machine code, a newer one PTX for the newest capability it can run", () => {
  for (const [capability, nvrtc, want] of [
    [90, V12, "sm_90"],
    [75, V13, "sm_75"],
    [121, V13, "sm_121"],
    [121, V12, "compute_90"],
    [100, V12, "compute_90"],
    [89, V11, "compute_87"],
    [90, V11, "compute_87"],
    // Nothing above the card.
    [101, V13, "compute_100"],
    [70, V12, "sm_70"],
    [121, SILENT, "sm_121"],
  ] as const) {
    assert.equal(targetFor(card(capability), nvrtc, null), want, `${capability} with ${nvrtc.version}`);
  }
});

test("a card older than all that NVRTC knows is told which NVRTC to get", () => {
  assert.throws(() => targetFor({ name: "Tesla V100", computeCapability: 70 }, V13, null), {
    name: "CudaUnavailableError",
    message: /^NVRTC 13\.0 .*7\.5 and up; Tesla V100 has 7\.0, .*pip install nvidia-cuda-nvrtc-cu12 .*remove CUDA 13's/,
  });
});

test("UNSLOTH_CUDA_PTX is a compute capability", () => {
  for (const [text, want] of [
    [undefined, null],
    ["", null],
    ["7.5", 75],
    ["75", 75],
    ["12.0", 120],
    ["120", 120],
  ] as const) {
    assert.equal(ptxCapability(text), want, text);
  }
  for (const text of ["6.1", "10", "sm_75", "7", "7.5.1", "none", "-75"]) {
    assert.throws(() => ptxCapability(text), { name: "CudaUnavailableError", message: /UNSLOTH_CUDA_PTX is ".*7\.5/ });
  }
});

test("a card used as an older one has that one's capability and shared memory, and no more than its own", () => {
  const old = presented(H100, 75);
  assert.deepEqual([old.computeCapability, old.sharedBytes], [75, 64 * KIB]);
  assert.equal(old.name, "H100 (UNSLOTH_CUDA_PTX=7.5)");
  assert.equal(presented(H100, 86).sharedBytes, 99 * KIB);
  assert.equal(presented(H100, 90).sharedBytes, H100.sharedBytes);
  assert.equal(presented(H100, null), H100);
  const unavailable = (message: RegExp) => ({ name: "CudaUnavailableError", message });
  assert.throws(() => presented(H100, 100), unavailable(/=10\.0 is more than the compute capability of H100, 9\.0/));
  const consumer = { ...H100, name: "RTX", computeCapability: 120, sharedBytes: 99 * KIB };
  assert.throws(() => presented(consumer, 90), unavailable(/227 KiB of shared memory; those of RTX have 99/));
  assert.equal(targetFor(old, V13, 75), "compute_75");
  assert.equal(targetFor(H100, V12, 90), "compute_90");
  assert.throws(
    () => targetFor(presented(H100, 70), V13, 70),
    unavailable(/=7\.0: NVRTC 13\.0 compiles for 7\.5, 8\.0/),
  );
});

test("a card used as 7.5 computes in f16, and refuses bf16 and fp8", () => {
  const { name, computeCapability } = presented(H100, 75);
  assert.throws(() => new CollectingBackend("bf16", computeCapability), /no bfloat16.*float16/);
  assert.throws(() => new CollectingBackend("f16", computeCapability, true), /fp8 needs compute capability 8\.9/);
  assert.match(name, /UNSLOTH_CUDA_PTX/);
});

test("kernels for less than 8.9 multiply no e4m3, whatever the card", () => {
  let disposed = 0;
  const device = { info: card(89), kernelCapability: 87, fp8: false, dispose: () => disposed++ };
  const options = { computeDtype: "bf16", fp8: true } as const;
  assert.throws(() => new CudaBackend(options, device as unknown as CudaBackend["device"]), {
    name: "RangeError",
    message: /fp8 needs kernels for 8\.9; the NVRTC found makes them for 8\.7/,
  });
  assert.equal(disposed, 1);
});

test("launches overlap only where kernels were compiled to wait", () => {
  const driver = { has: () => true, version: 13000 } as unknown as Driver;
  assert.equal(OverlappingLaunches.for(driver, 87, 1n), null);
  assert.ok(OverlappingLaunches.for(driver, 90, 1n));
});

test("what is used is said", () => {
  assert.equal(kernelNote(card(121), V12), "version 12.4, kernels as PTX for 9.0, compiled by the driver");
  assert.equal(kernelNote(card(90), V13), "version 13.0, kernels as machine code for 9.0");
  assert.equal(targetText("compute_120"), "kernels as PTX for 12.0, compiled by the driver");
  assert.throws(() => kernelNote(card(70), V13), CudaUnavailableError);
});

test("PTX that a driver does not take is an error that says what to do", () => {
  const said = (status: number, target: Target = "compute_90") =>
    refusedPtx(status, target, [12, 8], 12040)?.message ?? null;
  assert.match(
    said(222)!,
    /^NVRTC 12\.8 makes PTX for 9\.0, and the driver \(CUDA 12\.4\) is too old for it: install a newer driver, or .*\(pip install "nvidia-cuda-nvrtc-cu12==12\.4\.\*"\) and remove 12\.8$/,
  );
  assert.match(said(218)!, /does not take it \(CUDA_ERROR_INVALID_PTX\): install a newer driver/);
  assert.match(said(221)!, /libnvidia-ptxjitcompiler\.so\.1.*NVIDIA_DRIVER_CAPABILITIES=compute,utility/);
  assert.match(refusedPtx(222, "compute_120", [13, 2], 13000)!.message, /"nvidia-cuda-nvrtc==13\.0\.\*"/);
  assert.equal(said(222, "sm_90"), null);
  assert.equal(said(200), null);
});

test("a module that does not load: refused PTX is no GPU to use, anything else the driver's own error", (t) => {
  process.env.UNSLOTH_CACHE = temporaryFolder(t);
  t.after(() => delete process.env.UNSLOTH_CACHE);
  const load = (status: number, target: Target): void => {
    const driver = {
      version: 12040,
      try: () => status,
      failure: (what: string, code: number) => new CudaError(`${what}: code ${code}`, code),
      create: () => 1n,
    };
    const nvrtc = { version: [12, 8], compile: () => new Uint8Array(4) };
    new Kernels(driver as unknown as Driver, nvrtc as unknown as Nvrtc, target).function("cache", {}, "kv_write");
  };
  load(0, "compute_90");
  assert.throws(() => load(222, "compute_90"), { name: "CudaUnavailableError", status: 222 });
  assert.throws(() => load(222, "sm_90"), { name: "CudaError", message: "cache.cu for sm_90: code 222" });
  assert.throws(() => load(209, "compute_90"), { name: "CudaError", status: 209 });
});
