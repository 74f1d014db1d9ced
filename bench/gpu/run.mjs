// Parts of the suite as processes of their own: their words go through, their results are kept.
import { spawn } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { MARK } from "./lib.mjs";

export const script = (name) => join(import.meta.dirname, "..", name);

/**
 * Run a command to its end, or for `limit` seconds; its RESULT lines go into `results`, with a row for a failure.
 * @param started tell the command when it was started: --started MS
 * @param coldCache compiled kernels are not found, and kept nowhere
 */
export async function runPart(command, args, { limit, results, started = false, coldCache = false }) {
  const env = { ...process.env };
  if (coldCache) env.UNSLOTH_CACHE = mkdtempSync(join(tmpdir(), "bench-cold-"));
  const from = performance.now();
  const all = started ? [...args, "--started", String(Date.now())] : args;
  const child = spawn(command, all, { env, stdio: ["ignore", "pipe", "pipe"] });
  const name = [command, ...args].map((word) => (word.length > 60 ? "…" : word.split("/").at(-1))).join(" ");
  console.log(`── ${name}`);
  const words = [];
  child.stderr.on("data", (piece) => words.push(String(piece)));
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    child.kill("SIGKILL");
  }, limit * 1000);
  // A command that cannot be started says so here, and closes.
  child.on("error", (error) => words.push(error.message));
  const closed = new Promise((resolve) => child.on("close", resolve));
  for await (const line of createInterface({ input: child.stdout })) {
    if (!line.startsWith(MARK)) {
      console.log(line);
      continue;
    }
    const row = JSON.parse(line.slice(MARK.length));
    results.push(row);
    console.log(short(row));
  }
  const code = await closed;
  clearTimeout(timer);
  const seconds = (performance.now() - from) / 1000;
  console.log(`── ${seconds.toFixed(1)} s`);
  if (code === 0) return;
  const why = timedOut
    ? `took more than ${limit} s`
    : `ended with status ${code}: ${words.join("").trim().slice(-600)}`;
  console.log(why);
  results.push({ section: "failed", what: name, error: why });
}

/** A result in one line, long lists left out. */
function short(row) {
  const shown = Object.entries(row).filter(([, value]) => !Array.isArray(value));
  return JSON.stringify(Object.fromEntries(shown), (_, value) =>
    typeof value === "number" ? Number(value.toPrecision(5)) : value,
  );
}
