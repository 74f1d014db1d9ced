// What the benchmarks on the CPU share: the model, contenders run in turn as processes of their own, and their medians.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SMOLLM2_135M } from "./shapes.mjs";

/** A folder with a random SmolLM2-135M-shaped model (bf16 checkpoint), made once. */
export async function smollm2Folder() {
  const folder = join(tmpdir(), "unsloth-bench-smollm2-135m");
  if (existsSync(join(folder, "model.safetensors"))) return folder;
  const { openCpuBackend, createRandomModel, saveModel } = await import("../dist/index.js");
  mkdirSync(folder, { recursive: true });
  const backend = await openCpuBackend({});
  const model = await createRandomModel({ config: SMOLLM2_135M, backend, dtype: "bfloat16", seed: 1 });
  await saveModel(model, folder, {});
  backend.dispose();
  return folder;
}

/** Runs a program that prints a line of JSON last; its error where it failed. */
export function measure(command, args) {
  const env = { ...process.env };
  // Leave the choice of BLAS kernels to the libraries.
  for (const name of ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"]) delete env[name];
  const t0 = Date.now() / 1000;
  const run = spawnSync(command, [...args, "--t0", String(t0)], { encoding: "utf8", env });
  if (run.status !== 0) return { error: (run.stderr || String(run.error)).trim().split("\n").slice(-3).join(" ") };
  return JSON.parse(run.stdout.trim().split("\n").at(-1));
}

/** Results of every contender by name, run in turn so that a drift of the machine's speed meets all; none where it failed. */
export function inTurn(contenders, rounds) {
  const results = Object.fromEntries(Object.keys(contenders).map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of Object.entries(contenders)) {
      const result = run();
      if (result.error) console.error(`${name}: ${result.error}`);
      else results[name].push(result);
    }
  }
  return results;
}

export const median = (list) => list.slice().sort((a, b) => a - b)[list.length >> 1];

/** " (1.50×)" of a rival's number; nothing without a rival. */
export const ratio = (a, b) => (b === undefined ? "" : ` (${(a / b).toFixed(2)}×)`);
