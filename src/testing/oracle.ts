/** Fixtures that Python libraries wrote (tests/oracle). */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { bf16ToF32, f16ToF32 } from "../formats/float16.ts";
import { openSafetensors, type SafetensorsDtype } from "../formats/safetensors.ts";

export interface OracleTensor {
  dtype: SafetensorsDtype;
  shape: readonly number[];
  data: Uint8Array<ArrayBuffer>;
}

/** A path under tests/fixtures/oracle, from the source as well as from the built files. */
export function oraclePath(...parts: string[]): string {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return join(folder, "tests", "fixtures", "oracle", ...parts);
}

/** Every tensor of a safetensors fixture. */
export function oracleTensors(...parts: string[]): Map<string, OracleTensor> {
  using file = openSafetensors(oraclePath(...parts));
  return new Map(
    [...file.tensors].map(([name, { dtype, shape, byteLength }]) => {
      const data = new Uint8Array(byteLength);
      file.readIntoSync(name, data);
      return [name, { dtype, shape, data }] as const;
    }),
  );
}

export function oracleJson<T>(...parts: string[]): T {
  return JSON.parse(readFileSync(oraclePath(...parts), "utf8")) as T;
}

/** The values of an F32, BF16 or F16 tensor, or an error when there is no such tensor. */
export function oracleFloats(tensors: ReadonlyMap<string, OracleTensor>, name: string): Float32Array {
  const tensor = tensors.get(name);
  if (!tensor) throw new Error(`the fixture has no tensor ${name}`);
  if (tensor.dtype === "F32") return new Float32Array(tensor.data.buffer);
  const halves = new Uint16Array(tensor.data.buffer);
  const floats = new Float32Array(halves.length);
  if (tensor.dtype === "BF16") bf16ToF32(halves, floats);
  else if (tensor.dtype === "F16") f16ToF32(halves, floats);
  else throw new Error(`tensor ${name} is ${tensor.dtype}; expected F32, BF16 or F16`);
  return floats;
}
