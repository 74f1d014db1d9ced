import assert from "node:assert/strict";
import { test } from "node:test";
import type { TensorOptions } from "../../backends/backend.ts";
import { CpuBackend } from "../../backends/cpu/backend.ts";
import { openRuntime } from "../../backends/cpu/index.ts";
import type { CudaStatus } from "../../backends/cuda/index.ts";
import type { DType, Shape } from "../../graph/types.ts";
import { reportLines } from "./command.ts";
import { findGpus } from "./gpu.ts";
import { productError } from "./product.ts";
import { CHECKS, type Check, type CheckName, type DoctorReport, examine } from "./report.ts";

const H100 = "NVIDIA H100 80GB HBM3, 81559, 81077, 550.54.15, 9.0\n";
const BANNER = "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |";
const withGpu = () => findGpus(async (args) => (args.length > 0 ? H100 : BANNER));
const noGpu = () => findGpus(() => Promise.reject(Object.assign(new Error("spawn"), { code: "ENOENT" })));
const check = (report: DoctorReport, name: CheckName): Check => report.checks.find((one) => one.name === name)!;

test("nvidia-smi's GPUs, driver and CUDA version", async () => {
  const report = await withGpu();
  assert.deepEqual([report.driver, report.cuda, report.missing], ["550.54.15", "12.4", null]);
  const memoryBytes = 81559 * 2 ** 20;
  const gpu = { name: "NVIDIA H100 80GB HBM3", memoryBytes, freeBytes: 81077 * 2 ** 20, capability: "9.0" };
  assert.deepEqual(report.gpus, [gpu]);
});

test("why there is no GPU", async () => {
  assert.match((await noGpu()).missing!, /there is no nvidia-smi/);
  const failed = Object.assign(new Error("exit 9"), { code: 9, stdout: "NVIDIA-SMI has failed: no driver\nmore" });
  assert.equal(
    (await findGpus(() => Promise.reject(failed))).missing,
    "nvidia-smi failed: NVIDIA-SMI has failed: no driver",
  );
  assert.match((await findGpus(async () => "\n")).missing!, /no GPU/);
});

/** A status as of a machine with one card. */
function cudaOf(computeCapability: number, missing: readonly string[] = []): CudaStatus {
  const libraries = ["CUDA driver", "NVRTC", "cuBLASLt", "cuDNN"].map((name) => ({
    name,
    path: missing.includes(name) ? null : `/lib/${name}.so`,
    remedy: `install ${name}`,
    optional: name === "cuDNN",
  }));
  const device = { id: 0, index: 0, name: "NVIDIA X", bytes: 80 * 2 ** 30, computeCapability };
  const card = { ...device, multiprocessors: 100, sharedBytes: 2 ** 17, l2Bytes: 2 ** 25 };
  const problems = libraries.filter(({ path, optional }) => path === null && !optional).map(({ name }) => `no ${name}`);
  const driver = !missing.includes("CUDA driver");
  return {
    available: problems.length === 0,
    libraries,
    driverVersion: driver ? "13.0" : null,
    devices: driver ? [card] : [],
    problems,
  };
}

test("a machine with native kernels and a GPU: all works, and where the libraries are", async () => {
  const report = await examine("1.2.3", { gpus: withGpu, cuda: () => cudaOf(90) });
  assert.equal(report.ok, true);
  for (const name of CHECKS) assert.equal(check(report, name).ok, true, name);
  assert.deepEqual(check(report, "cuda").details, [
    "NVIDIA X, 80.0 GiB, compute capability 9.0, bfloat16, fp8",
    "CUDA driver: /lib/CUDA driver.so",
    "NVRTC: /lib/NVRTC.so",
    "cuBLASLt: /lib/cuBLASLt.so",
    "cuDNN: /lib/cuDNN.so",
  ]);
  const lines = reportLines(report, []);
  assert.equal(lines[0], "Unsloth successfully installed!");
  assert.match(lines[1]!, /^unsloth 1\.2\.3, Node\.js \d+/);
  assert.ok(lines.includes("✅ CUDA 13.0: 1 GPU") && lines.includes("     NVRTC: /lib/NVRTC.so"));
});

test("how kernels are made for the card is said beside the compiler", async () => {
  const status = cudaOf(121);
  const note = "version 12.4, kernels as PTX for 9.0, compiled by the driver";
  const libraries = status.libraries.map((one) => (one.name === "NVRTC" ? { ...one, notes: [note] } : one));
  const report = await examine("1.2.3", { gpus: withGpu, cuda: () => ({ ...status, libraries }) });
  assert.ok(reportLines(report, []).includes(`     NVRTC: /lib/NVRTC.so; ${note}`));
});

test("what of CUDA is missing is named with its remedy; cuDNN may be", async () => {
  const cudaLines = async (missing: readonly string[], capability = 75) => {
    const report = await examine("1.2.3", { gpus: withGpu, cuda: () => cudaOf(capability, missing) });
    assert.equal(report.ok, true, "the CPU trains");
    return { report, text: reportLines(report, check(report, "cuda").ok ? [] : ["cuda"]).join("\n") };
  };
  const { text } = await cudaLines(["NVRTC"]);
  assert.match(text, /❌ CUDA: not usable\n.*NVIDIA X.*float16\n/);
  assert.match(text, /reason: no NVRTC\n +remedy: install NVRTC\n/);
  assert.match(text, /❌ required, but not working: cuda$/);
  const optional = await cudaLines(["cuDNN"]);
  assert.equal(check(optional.report, "cuda").ok, true);
  assert.match(optional.text, /cuDNN: not found; install cuDNN/);
  const none = await cudaLines(["CUDA driver", "NVRTC"]);
  assert.match(none.text, /❌ CUDA: no GPU\n.*\n +remedy: for training on a GPU: install CUDA driver/);
});

test("without native kernels: WebAssembly trains, with the reason and the remedy", async () => {
  const open = async () => ({ ...(await openRuntime({ prefer: "wasm", threads: 1 })), reason: "no addon for plan9" });
  const report = await examine("1.2.3", { open, gpus: noGpu });
  assert.equal(report.ok, true);
  assert.equal(check(report, "qlora").ok, true);
  const native = check(report, "native");
  assert.deepEqual([native.ok, native.reason], [false, "no addon for plan9"]);
  assert.match(native.remedy!, /C\+\+ compiler.*build\.mjs native/);
  assert.match(
    reportLines(report, []).join("\n"),
    /❌ Kernel fusion not enabled.*\n +reason: no addon for plan9\n +remedy:/,
  );
});

test("without any kernels: not installed, the reason once", async () => {
  const open = () => Promise.reject(new Error("no CPU kernels: gone"));
  const report = await examine("1.2.3", { open, gpus: noGpu });
  assert.equal(report.ok, false);
  const lines = reportLines(report, []);
  assert.match(lines[0]!, /^❌/);
  assert.equal(lines.filter((line) => line.includes("no CPU kernels: gone")).length, 1);
});

test("the product check is tight, and finds weights that are not what they should be", async () => {
  const { runtime } = await openRuntime({ threads: 1 });
  using backend = new CpuBackend(runtime);
  for (const dtype of ["nf4", "bf16"] as const) {
    const error = await productError(backend, dtype);
    assert.ok(error < 1e-6, `${dtype}: ${error}`);
  }
  using broken = new ShiftedBackend((await openRuntime({ threads: 1 })).runtime);
  assert.ok((await productError(broken, "nf4")) > 1e-3);
  assert.ok((await productError(broken, "bf16")) > 1e-3);
});

/** A backend that gets one byte of every weight wrong. */
class ShiftedBackend extends CpuBackend {
  override createTensor(name: string, dtype: DType, shape: Shape, options: TensorOptions) {
    const tensor = super.createTensor(name, dtype, shape, options);
    if (options.role !== "weight") return tensor;
    const write = tensor.write.bind(tensor);
    return Object.assign(tensor, {
      write: (data: Uint8Array, at?: Parameters<typeof write>[1]) =>
        write(
          data.map((byte, i) => (i === 3 ? byte ^ 64 : byte)),
          at,
        ),
    });
  }
}
