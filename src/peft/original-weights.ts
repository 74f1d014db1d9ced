import { existsSync, statSync } from "node:fs";
import { openSafetensorsFolder } from "../formats/safetensors.ts";
import { DTYPE_BYTES } from "../graph/types.ts";
import { widen } from "../models/load/convert.ts";
import type { CausalLM } from "../models/model.ts";
import { OptionError } from "../util/options.ts";
import type { LoraTarget } from "./targets.ts";
import { readWeight } from "./weights.ts";

/** Weights as they were before they were quantised, in f32. */
export interface OriginalWeights {
  read(parameter: string): Promise<Float32Array>;
  close(): void;
}

const DTYPES = { F32: "f32", F16: "f16", BF16: "bf16" } as const;

/**
 * The weights of modules before quantisation: the model's own where they are not in 4 bits, else those of the folder it
 * was loaded from. Throws OptionError when that is not there, or holds them in 4 bits too.
 */
export function originalWeights(model: CausalLM, targets: readonly LoraTarget[], owner: string): OriginalWeights {
  const quantised = targets.some(({ path }) => model.parameter(`${path}.weight`).dtype === "nf4");
  if (!quantised) {
    return { read: (name) => readWeight(model.backend, model.parameter(name)), close: () => undefined };
  }
  const folder = model.path;
  const fail = (why: string): never => {
    throw new OptionError(
      `${owner}: initLoraWeights "loftq" compares 4-bit weights with those they were made from, and ${why}: load the model with loadIn4bit: false, which it then quantises itself`,
    );
  };
  if (!existsSync(folder) || !statSync(folder).isDirectory()) fail(`"${folder}" is no folder with them`);
  const files = openSafetensorsFolder(folder);
  for (const { path, shape } of targets) {
    const info = files.tensors.get(`${path}.weight`);
    const fits = info && Object.hasOwn(DTYPES, info.dtype) && info.shape.join() === shape.join();
    if (fits) continue;
    files.close();
    fail(`${folder} has ${path}.weight ${info ? `as ${info.dtype}[${info.shape.join(", ")}]` : "not at all"}`);
  }
  return {
    async read(name) {
      const dtype = DTYPES[files.tensors.get(name)!.dtype as "F32"];
      const bytes = new Uint8Array(files.tensors.get(name)!.byteLength);
      await files.readInto(name, bytes);
      return dtype === "f32" ? new Float32Array(bytes.buffer, 0, bytes.length / DTYPE_BYTES.f32) : widen(bytes, dtype);
    },
    close: () => files.close(),
  };
}
