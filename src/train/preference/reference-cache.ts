import { createHash, type Hash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { DeviceTensor } from "../../backends/backend.ts";
import type { TokenizedRow } from "../../data/collate.ts";
import { defaultCacheDir } from "../../data/index.ts";
import { FormatError, reason } from "../../formats/errors.ts";
import { openSafetensors, writeSafetensors } from "../../formats/safetensors.ts";
import type { ModelAdapter } from "../../models/adapter.ts";
import type { CausalLM } from "../../models/model.ts";
import { withoutAdapter } from "../../models/muted-adapter.ts";
import { FrozenAdapter, LoraAdapter } from "../../peft/index.ts";
import type { ReferencePlan } from "./reference-plan.ts";

/** Changes when the numbers would be others for the same data. */
const FORMAT = 2;
const TENSOR = "reference";

/** What a file of reference numbers is the numbers of. */
export interface ReferenceData {
  readonly lm: CausalLM;
  readonly scorer: NonNullable<ReferencePlan["scorer"]>;
  /** Each item's sequences, in the order of the data. */
  readonly rows: Iterable<readonly TokenizedRow[]>;
  /** What else decides the numbers, as plain JSON. */
  readonly settings: unknown;
}

/**
 * A name made of everything that decides the numbers, their roundings included: weights, adapter, tokens, settings. Reads all
 * weights once.
 */
export async function referenceKey({ lm, scorer, rows, settings }: ReferenceData): Promise<string> {
  const hash = createHash("sha256");
  const model = scorer.kind === "model" ? scorer.model : lm;
  const { backend } = model;
  const { name: on, computeDtype: type, fp8 = false } = backend;
  hash.update(JSON.stringify({ FORMAT, settings, config: model.hfConfig, backend: on, type, fp8 }));
  for (const [name, tensor] of model.parameters) await addTensor(hash, name, tensor);
  const adapter = adapterOf(scorer);
  if (adapter instanceof LoraAdapter || adapter instanceof FrozenAdapter) {
    hash.update(JSON.stringify(adapter.config));
    for (const { name, tensor } of adapter.tensors) await addTensor(hash, name, tensor);
  } else if (withoutAdapter(model) && model.adapter instanceof LoraAdapter) {
    // Products times 0 are there all the same, and their shapes decide how the sum is rounded.
    hash.update(JSON.stringify(model.adapter.tensors.map(({ name, shape }) => [name, shape])));
  }
  for (const sequences of rows) {
    for (const { inputIds, labels } of sequences) {
      hash.update(Uint32Array.of(inputIds.length)).update(inputIds).update(labels);
    }
  }
  return hash.digest("hex");
}

function adapterOf(scorer: ReferenceData["scorer"]): ModelAdapter | null {
  if (scorer.kind === "model") return scorer.model.adapter;
  return scorer.kind === "initial" ? scorer.initial.adapter : scorer.adapter;
}

async function addTensor(hash: Hash, name: string, tensor: DeviceTensor): Promise<void> {
  hash.update(`${name}:${tensor.dtype}:${tensor.shape}`);
  for (const part of tensor.parts.keys()) hash.update(await tensor.read(part));
}

/** Where numbers of that name are kept. */
export const referencePath = (folder: string | undefined, key: string): string =>
  join(folder ?? join(defaultCacheDir(), "reference"), `${key}.safetensors`);

/** Numbers kept before, [count, 2], or null: there are none, or the file is damaged. */
export async function readReference(path: string, count: number): Promise<Float32Array | null> {
  if (!existsSync(path)) return null;
  try {
    using file = openSafetensors(path);
    const info = file.tensors.get(TENSOR);
    if (info?.dtype !== "F32" || info.shape.join() !== [count, 2].join()) {
      throw new FormatError({
        file: path,
        field: TENSOR,
        found: `${info?.dtype}[${info?.shape}]`,
        expected: `F32[${count},2]`,
      });
    }
    const bytes = new Uint8Array(info.byteLength);
    await file.readInto(TENSOR, bytes);
    return new Float32Array(bytes.buffer);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    process.emitWarning(`${error.message}; the reference is computed again`, "UnslothWarning");
    return null;
  }
}

/** Keep numbers, [count, 2]. A folder that cannot be written to costs a warning only. */
export async function writeReference(path: string, numbers: Float32Array): Promise<void> {
  const data = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeSafetensors(path, [{ name: TENSOR, dtype: "F32", shape: [numbers.length / 2, 2], data }]);
  } catch (error) {
    process.emitWarning(`the reference's numbers are not kept in ${path}: ${reason(error)}`, "UnslothWarning");
  }
}
