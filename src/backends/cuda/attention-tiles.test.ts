import assert from "node:assert/strict";
import { test } from "node:test";
import { tileKernels } from "./attention-tiles.ts";
import { moduleSource } from "./kernels.ts";
import { compileCached, Nvrtc } from "./nvrtc.ts";

const HEAD_SIZES = [64, 80, 96, 112, 128, 160, 192, 256];
/** Shared memory of a block by compute capability (CUDA C++ Programming Guide, technical specifications). */
const SHARED_KIB: Record<number, number> = { 75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99 };

test("every head size has tensor-core kernels on every card from Ampere on, within its shared memory", () => {
  for (const [capability, kib] of Object.entries(SHARED_KIB).map(([key, value]) => [Number(key), value] as const)) {
    for (const headDim of HEAD_SIZES) {
      for (const dtype of ["bf16", "f16"] as const) {
        const kernels = tileKernels(dtype, headDim, 0, capability);
        if (capability < 80 && (dtype === "bf16" || headDim > 128)) {
          assert.equal(kernels, null);
          continue;
        }
        assert.ok(kernels, `${dtype} heads of ${headDim}, capability ${capability}`);
        for (const { sharedBytes, rows, threads, file } of [kernels.forward, kernels.gradQ, ...kernels.gradKv]) {
          assert.ok(sharedBytes <= 1024 * (kib - 1), `${file} ${headDim} on ${capability}: ${sharedBytes} bytes`);
          assert.ok(rows % 16 === 0 && threads % 32 === 0 && rows <= threads);
        }
      }
    }
  }
});

test("what the tensor-core kernels do not take is left to others", () => {
  for (const [dtype, headDim, capability] of [
    ["f32", 128, 90],
    ["bf16", 128, 75],
    ["f16", 128, 70],
    ["bf16", 72, 80],
    ["bf16", 272, 80],
  ] as const) {
    assert.equal(tileKernels(dtype, headDim, 0, capability), null, `${dtype} ${headDim} ${capability}`);
  }
});

let nvrtc: Nvrtc | null = null;
try {
  nvrtc = new Nvrtc();
} catch {
  // The tests below say so.
}

for (const [capability, dtype, headDim, softcap] of [
  [75, "f16", 128, 0],
  [80, "bf16", 80, 0],
  [86, "f16", 256, 30],
  [90, "bf16", 96, 0],
  [90, "bf16", 128, 30],
] as const) {
  const title = `attention's kernels compile: ${dtype} heads of ${headDim}, capability ${capability / 10}`;
  test(title, { skip: nvrtc ? false : "no NVRTC" }, () => {
    const kernels = tileKernels(dtype, headDim, softcap, capability)!;
    for (const { file, defines } of [kernels.forward, kernels.gradQ, ...kernels.gradKv]) {
      const code = compileCached(nvrtc!, moduleSource(file, defines), `${file}.cu`, `sm_${capability}`, []);
      assert.ok(code.length > 0);
    }
  });
}
