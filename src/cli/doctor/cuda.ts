import type { CudaStatus } from "../../backends/cuda/status.ts";
import { capabilityText } from "../../backends/cuda/target.ts";
import { formatBytes } from "../terminal.ts";
import type { GpuReport } from "./gpu.ts";
import type { Check } from "./report.ts";

/** Whether the CUDA backend can be used, on what, and where its libraries were found; else what is missing and how to get it. */
export function cudaCheck(status: CudaStatus, { missing }: Pick<GpuReport, "missing">): Check {
  const name = "cuda";
  const { available, driverVersion, devices, libraries, problems } = status;
  const found = libraries.filter(({ path }) => path !== null);
  const lacking = libraries.filter(({ path }) => path === null);
  const cards = devices.map(
    ({ name: card, bytes, computeCapability }) =>
      `${card}, ${formatBytes(bytes)}, compute capability ${capabilityText(computeCapability)}, ${arithmetic(computeCapability)}`,
  );
  const details = [
    ...cards,
    ...found.map(({ name: library, path, notes = [] }) => [`${library}: ${path}`, ...notes].join("; ")),
    ...lacking
      .filter(({ optional }) => optional && found.length > 0)
      .map((library) => `${library.name}: not found; ${library.remedy}`),
  ];
  if (available) return { name, ok: true, text: `CUDA ${driverVersion}: ${devices.length} GPU`, details };
  const driverMissing = libraries[0]?.path === null;
  if (driverMissing) {
    const reason = missing ?? "there is no NVIDIA driver that can be loaded";
    return { name, ok: false, text: "CUDA: no GPU", reason, remedy: `for training on a GPU: ${libraries[0]!.remedy}` };
  }
  const remedies = lacking.filter(({ optional }) => !optional).map(({ remedy }) => remedy);
  return {
    name,
    ok: false,
    text: "CUDA: not usable",
    details,
    reason: problems.join("; "),
    remedy: remedies.join("; ") || "see the reason; until then training runs on the CPU",
  };
}

/** What a card multiplies in. */
function arithmetic(capability: number): string {
  if (capability >= 89) return "bfloat16, fp8";
  return capability >= 80 ? "bfloat16" : "float16";
}
