import { arch, cpus, platform, totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import { CpuBackend } from "../../backends/cpu/backend.ts";
import { type OpenedRuntime, openRuntime } from "../../backends/cpu/index.ts";
import { type CudaStatus, cudaStatus } from "../../backends/cuda/index.ts";
import { reason } from "../../formats/errors.ts";
import { availableMemory } from "../../util/available-memory.ts";
import { formatBytes } from "../terminal.ts";
import { cudaCheck } from "./cuda.ts";
import { findGpus, type GpuReport } from "./gpu.ts";
import { productError } from "./product.ts";

/** What can be checked, and asked for with --require. */
export const CHECKS = ["cpu", "memory", "native", "qlora", "bf16", "cuda"] as const;
export type CheckName = (typeof CHECKS)[number];

/** Something that works, or why it does not and what to do. */
export interface Check {
  readonly name: CheckName;
  readonly ok: boolean;
  /** One line for people. */
  readonly text: string;
  /** Further lines for people. */
  readonly details?: readonly string[];
  /** Where it does not work: why, and what would change that. */
  readonly reason?: string;
  readonly remedy?: string;
}

export interface DoctorReport {
  /** Whether models can be trained here at all. */
  readonly ok: boolean;
  readonly unsloth: string;
  readonly node: string;
  readonly platform: string;
  readonly cpu: {
    readonly model: string;
    readonly isa: string;
    readonly isas: readonly string[];
    readonly threads: number;
  };
  readonly memory: { readonly totalBytes: number; readonly availableBytes: number };
  /** What nvidia-smi says. */
  readonly gpu: GpuReport;
  /** What the CUDA backend finds. */
  readonly cuda: CudaStatus;
  readonly checks: readonly Check[];
}

/** What the checks look at; tests give their own. */
export interface DoctorSources {
  readonly open?: () => Promise<OpenedRuntime>;
  readonly gpus?: () => Promise<GpuReport>;
  readonly cuda?: () => CudaStatus;
}

/** Rounding of a sum of 128 products in f32 is far below this; a wrong decoding far above. */
const TOLERANCE = 1e-5;

const ISAS: Readonly<Record<string, string>> = {
  avx512: "AVX-512",
  avx2: "AVX2",
  base: arch() === "arm64" ? "NEON" : "SSE2",
  simd128: "WebAssembly SIMD",
};

/** Looks at this machine and installation, running the kernels that training needs. Never throws. */
export async function examine(version: string, sources: DoctorSources = {}): Promise<DoctorReport> {
  const [gpu, opened] = await Promise.all([
    (sources.gpus ?? findGpus)(),
    (sources.open ?? openRuntime)().catch((error: unknown) => reason(error)),
  ]);
  const cuda = (sources.cuda ?? cudaStatus)();
  const memory = { totalBytes: totalmem(), availableBytes: availableMemory() };
  const model = cpus()[0]?.model.trim() || "unknown processor";
  const common = {
    unsloth: version,
    node: process.versions.node,
    platform: `${platform()}-${arch()}`,
    memory,
    gpu,
    cuda,
  };
  if (typeof opened === "string") {
    const broken = { ok: false, reason: opened, remedy: REBUILD };
    const checks: Check[] = [
      { name: "cpu", text: `CPU: ${model}, but no kernels for it`, ...broken },
      memoryCheck(memory),
      { name: "native", text: "Kernel fusion: not available", ...broken },
      { name: "qlora", text: "4-bit QLoRA: not available", ...broken },
      { name: "bf16", text: "bf16: not available", ...broken },
      cudaCheck(cuda, gpu),
    ];
    return { ok: cuda.available, ...common, cpu: { model, isa: "none", isas: [], threads: 0 }, checks };
  }
  const { runtime } = opened;
  using backend = new CpuBackend(runtime);
  const { isa, isas, threads } = runtime;
  const checks = [
    {
      name: "cpu",
      ok: true,
      text: `CPU: ${model}, ${named(isa)}, ${threads} thread${threads === 1 ? "" : "s"}`,
    } as const,
    memoryCheck(memory),
    nativeCheck(opened),
    await productCheck(backend, "qlora"),
    await productCheck(backend, "bf16"),
    cudaCheck(cuda, gpu),
  ];
  const ok = checks.every((check) => check.ok || check.name === "native" || check.name === "cuda");
  return { ok, ...common, cpu: { model, isa, isas, threads }, checks };
}

const named = (isa: string): string => ISAS[isa] ?? isa;

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const REBUILD =
  `install a C++ compiler (Debian and Ubuntu: apt install g++; macOS: xcode-select --install), then run ` +
  `"node scripts/build.mjs native" in ${ROOT}`;

function memoryCheck({ totalBytes, availableBytes }: DoctorReport["memory"]): Check {
  const text = `Memory: ${formatBytes(availableBytes)} available of ${formatBytes(totalBytes)}`;
  return { name: "memory", ok: true, text };
}

function nativeCheck({ runtime, reason: why }: OpenedRuntime): Check {
  const name = "native";
  if (why === null) return { name, ok: true, text: `Kernel fusion enabled: native kernels (${named(runtime.isa)})` };
  const text = "Kernel fusion not enabled: the WebAssembly build runs instead, several times slower";
  return { name, ok: false, text, reason: why, remedy: REBUILD };
}

async function productCheck(backend: CpuBackend, name: "qlora" | "bf16"): Promise<Check> {
  const [label, ok] =
    name === "qlora"
      ? ["4-bit QLoRA", "supported: NF4 product checked"]
      : ["bf16", "weights supported: product checked (arithmetic is float32 on the CPU)"];
  let why: string;
  try {
    const error = await productError(backend, name === "qlora" ? "nf4" : "bf16");
    if (error < TOLERANCE) return { name, ok: true, text: `${label} ${ok}` };
    why = `the product is wrong by ${error.toExponential(1)}; expected below ${TOLERANCE}`;
  } catch (error) {
    why = reason(error);
  }
  return { name, ok: false, text: `${label}: not usable`, reason: why, remedy: REBUILD };
}
