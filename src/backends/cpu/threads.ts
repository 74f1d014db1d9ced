/** How many threads are worth using. */

import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

/**
 * Processors this process may use: what the operating system lets it run on, and no more than its container's CPU quota
 * (Linux control groups version 2, `cpu.max`), which availableParallelism does not see. At least 1.
 */
export function usableProcessors(quotaFile = "/sys/fs/cgroup/cpu.max"): number {
  const processors = availableParallelism();
  try {
    const [quota, period] = readFileSync(quotaFile, "utf8").trim().split(" ").map(Number);
    const allowed = Math.ceil(quota! / period!); // NaN for "max": no limit
    return allowed >= 1 ? Math.min(processors, allowed) : processors;
  } catch {
    return processors; // no control groups here
  }
}
