import { readFileSync } from "node:fs";
import { freemem, platform, totalmem } from "node:os";
import { dirname, join } from "node:path";

/** Bytes this process can still take: the machine's free memory, or what is left of its control groups' limits. */
export function availableMemory(): number {
  // macOS counts only untouched pages as free, a sliver of what it would hand out.
  const machine = platform() === "darwin" ? totalmem() : freemem();
  return platform() === "linux"
    ? Math.min(machine, controlGroupHeadroom("/proc/self/cgroup", "/sys/fs/cgroup"))
    : machine;
}

/**
 * The least that any of the process's control groups leaves, files cached on its behalf counted as free; Infinity
 * without limits. Reads version 2 ("0::/path", memory.max) and version 1 ("4:memory:/path", memory.limit_in_bytes).
 */
export function controlGroupHeadroom(membership: string, mount: string): number {
  let headroom = Number.POSITIVE_INFINITY;
  for (const line of (readText(membership) ?? "").split("\n")) {
    const [, , controllers, path] = /^(\d+):([^:]*):(\/.*)$/.exec(line) ?? [];
    if (path === undefined) continue;
    const version2 = controllers === "";
    if (!version2 && !controllers!.split(",").includes("memory")) continue;
    const root = version2 ? mount : join(mount, "memory");
    for (let folder = path; ; folder = dirname(folder)) {
      headroom = Math.min(headroom, groupHeadroom(join(root, folder), version2));
      if (folder === "/") break;
    }
  }
  return headroom;
}

function groupHeadroom(group: string, version2: boolean): number {
  const limit = readNumber(join(group, version2 ? "memory.max" : "memory.limit_in_bytes"));
  const used = readNumber(join(group, version2 ? "memory.current" : "memory.usage_in_bytes"));
  if (limit === null || used === null) return Number.POSITIVE_INFINITY;
  const statistics = readText(join(group, "memory.stat")) ?? "";
  const prefix = version2 ? "" : "total_";
  let cached = 0;
  for (const name of ["inactive_file", "active_file"]) {
    cached += Number(new RegExp(`^${prefix}${name} (\\d+)$`, "m").exec(statistics)?.[1] ?? 0);
  }
  return Math.max(0, limit - Math.max(0, used - cached));
}

function readNumber(path: string): number | null {
  const text = readText(path)?.trim();
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : null;
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
