import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { CpuBackend } from "../../backends/cpu/backend.ts";
import { openCpuBackend } from "../../backends/cpu/backend.ts";
import { fixtures, temporaryFolder } from "../../formats/files.test.support.ts";
import { openSafetensorsFolder, type TensorToWrite, writeSafetensors } from "../../formats/safetensors.ts";

export const FAMILY_FIXTURES = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2"] as const;
export type FamilyFixture = (typeof FAMILY_FIXTURES)[number];

/** A family's tiny model, as transformers saved it. */
export function familyModel(family: FamilyFixture | "llama_bf16_sharded"): string {
  return join(fixtures("oracle"), "families", family, "model");
}

/** A backend for one test, disposed of when it ends. */
export async function testBackend(t: TestContext): Promise<CpuBackend> {
  const backend = await openCpuBackend({ threads: 1 });
  t.after(() => backend.dispose());
  return backend;
}

export type Tensors = Map<string, TensorToWrite & { readonly data: Uint8Array }>;

/** All tensors of a folder. */
export function readTensors(folder: string): Tensors {
  using source = openSafetensorsFolder(folder);
  const tensors: Tensors = new Map();
  for (const [name, { dtype, shape, byteLength }] of source.tensors) {
    const data = new Uint8Array(byteLength);
    source.readIntoSync(name, data);
    tensors.set(name, { name, dtype, shape, data });
  }
  return tensors;
}

export function readJson(folder: string, file = "config.json"): Record<string, unknown> {
  return JSON.parse(readFileSync(join(folder, file), "utf8"));
}

/** A model folder of a test's own, from a fixture with its configuration and tensors changed. */
export async function changedModel(
  t: TestContext,
  from: string,
  change: { config?: (config: Record<string, unknown>) => unknown; tensors?: (tensors: Tensors) => void },
): Promise<string> {
  const folder = join(temporaryFolder(t), "model");
  mkdirSync(folder);
  const config = readJson(from);
  writeFileSync(join(folder, "config.json"), JSON.stringify(change.config?.(config) ?? config));
  const tensors = readTensors(from);
  change.tensors?.(tensors);
  await writeSafetensors(join(folder, "model.safetensors"), tensors.values());
  return folder;
}

/** A copy of a model folder that a test may damage. */
export function copiedModel(t: TestContext, from: string): string {
  const folder = join(temporaryFolder(t), "model");
  cpSync(from, folder, { recursive: true });
  return folder;
}

/** f32 content of tensor bytes. */
export function floats({ dtype, data }: { readonly dtype: string; readonly data: Uint8Array }): Float32Array {
  if (dtype === "F32") return new Float32Array(data.slice().buffer);
  const bits = new Uint16Array(data.slice().buffer);
  if (dtype !== "BF16") throw new Error(`no floats from ${dtype}`);
  return new Float32Array(Uint32Array.from(bits, (b) => b << 16).buffer);
}
