import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type CpuBackend, openCpuBackend } from "../backends/cpu/backend.ts";
import { type LoadModelOptions, loadModel } from "../models/load/load.ts";
import type { CausalLM } from "../models/model.ts";
import { relativeError } from "../testing/kernels.ts";
import { forwardLogits } from "../testing/model-run.ts";
import { oraclePath } from "../testing/oracle.ts";

/** A backend for one test, on one thread. */
export async function testBackend(t: TestContext): Promise<CpuBackend> {
  const backend = await openCpuBackend({ threads: 1 });
  t.after(() => backend.dispose());
  return backend;
}

/** One of the Python libraries' tiny models. */
export function oracleModel(
  backend: CpuBackend,
  path: string,
  options: Omit<LoadModelOptions, "path" | "backend"> = {},
): Promise<CausalLM> {
  return loadModel({ path: oraclePath(...path.split("/")), backend, nameOrPath: "tiny", ...options });
}

/** A folder that goes when the test ends. */
export function scratchFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "peft-"));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** Logits of one sequence, [T · vocab]. */
export async function logitsOf(model: CausalLM, ids: readonly number[]): Promise<Float32Array> {
  return (await forwardLogits(model, [ids]))[0]!.slice();
}

export function assertClose(got: Float32Array, want: ArrayLike<number>, tolerance: number, label?: string): void {
  const error = relativeError(got, want);
  assert.ok(error <= tolerance, `${label ?? "values"}: relative error ${error}, allowed ${tolerance}`);
}
