import { execFile } from "node:child_process";
import { promisify } from "node:util";

/** What NVIDIA's driver says of itself and its GPUs. */
export interface GpuReport {
  readonly driver: string | null;
  /** Newest CUDA version the driver runs. */
  readonly cuda: string | null;
  readonly gpus: readonly {
    readonly name: string;
    readonly memoryBytes: number;
    readonly freeBytes: number;
    /** Compute capability, "9.0". */
    readonly capability: string;
  }[];
  /** Why there is nothing to report; null when there is. */
  readonly missing: string | null;
}

/** Runs nvidia-smi with arguments and gives what it prints. */
export type RunSmi = (args: readonly string[]) => Promise<string>;

const runSmi: RunSmi = async (args) =>
  (await promisify(execFile)("nvidia-smi", [...args], { timeout: 10_000, windowsHide: true })).stdout;

const QUERY = ["--query-gpu=name,memory.total,memory.free,driver_version,compute_cap", "--format=csv,noheader,nounits"];
const MIB = 2 ** 20;

/** Asks nvidia-smi, which comes with NVIDIA's driver. Never throws. */
export async function findGpus(run: RunSmi = runSmi): Promise<GpuReport> {
  const none = (missing: string): GpuReport => ({ driver: null, cuda: null, gpus: [], missing });
  let listed: string;
  try {
    listed = await run(QUERY);
  } catch (error) {
    const { code, stdout } = error as { code?: unknown; stdout?: string };
    if (code === "ENOENT") return none("no NVIDIA driver here: there is no nvidia-smi");
    const said = (stdout || (error as Error).message).trim().split("\n")[0];
    return none(`nvidia-smi failed: ${said}`);
  }
  const rows = listed
    .split("\n")
    .map((line) => line.split(",").map((cell) => cell.trim()))
    .filter((cells) => cells.length === 5);
  if (rows.length === 0) return none("NVIDIA's driver lists no GPU");
  const cuda = /CUDA Version:\s*([\d.]+)/.exec(await run([]).catch(() => ""))?.[1] ?? null;
  const gpus = rows.map(([name, total, free, , capability]) => ({
    name: name!,
    memoryBytes: Number(total) * MIB,
    freeBytes: Number(free) * MIB,
    capability: capability!,
  }));
  return { driver: rows[0]![3]!, cuda, gpus, missing: null };
}
