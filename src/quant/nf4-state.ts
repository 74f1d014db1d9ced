/**
 * A 4-bit weight in a checkpoint of transformers + bitsandbytes: `<name>` and its companions `<name>.absmax`,
 * `.quant_map`, `.nested_absmax`, `.nested_quant_map` and `.quant_state.bitsandbytes__nf4` (JSON in a U8 tensor).
 */

import { FormatError, show } from "../formats/errors.ts";
import type { SafetensorsDtype } from "../formats/safetensors.ts";
import { parseJsonObject } from "../formats/strict-json.ts";
import { pythonFloat } from "../util/python-json.ts";
import { expandAbsmax, type NestedAbsmax, NF4_BLOCK_SIZES, NF4_CODE } from "./nf4.ts";

/** A tensor of a checkpoint: little-endian bytes, row-major. */
export interface NamedTensor {
  dtype: SafetensorsDtype;
  shape: readonly number[];
  data: Uint8Array;
}

export const NF4_SOURCE_DTYPES = ["float32", "bfloat16", "float16"] as const;
export type Nf4SourceDtype = (typeof NF4_SOURCE_DTYPES)[number];

/** Everything but the packed codes that decoding an NF4 weight needs. */
export interface QuantState {
  /** Shape of the decoded weight. */
  shape: readonly number[];
  /** Dtype the weight had, and is decoded to. */
  dtype: Nf4SourceDtype;
  blockSize: number;
  /** One f32 scale a block, or the same quantised to 8 bits (double quantisation). */
  absmax: Float32Array | NestedAbsmax;
}

/** A 4-bit weight: packed codes [⌈n/2⌉] (high nibble first) and their state. */
export interface Nf4Weight {
  data: Uint8Array;
  state: QuantState;
}

const STATE_SUFFIX = ".quant_state.bitsandbytes__";

/** Whether `name` has an NF4 (or FP4) quant state among the tensor names. */
export function isQuantized(name: string, tensors: { has(name: string): boolean }): boolean {
  return tensors.has(`${name}${STATE_SUFFIX}nf4`) || tensors.has(`${name}${STATE_SUFFIX}fp4`);
}

/** Names of the tensors a plain or double-quantised weight consists of, the weight's own first. */
export function nf4TensorNames(name: string, nested: boolean): string[] {
  const parts = nested ? ["absmax", "quant_map", "nested_absmax", "nested_quant_map"] : ["absmax", "quant_map"];
  return [name, ...parts.map((part) => `${name}.${part}`), `${name}${STATE_SUFFIX}nf4`];
}

/** The f32 scale of every block. */
export function absmaxOf(state: QuantState): Float32Array {
  return state.absmax instanceof Float32Array ? state.absmax : expandAbsmax(state.absmax);
}

/**
 * Reads the weight `name` (for example "model.layers.0.self_attn.q_proj.weight").
 * @param file shown in errors
 * @throws {FormatError} naming the tensor when one is missing, of a wrong size or type, or says something unsupported
 */
export function readNf4Weight(name: string, tensors: ReadonlyMap<string, NamedTensor>, file = "checkpoint"): Nf4Weight {
  const fail = (suffix: string, found: string, expected: string) =>
    new FormatError({ file, field: `tensor ${show(name + suffix)}`, found, expected });
  const need = (suffix: string): NamedTensor => {
    const tensor = tensors.get(name + suffix);
    if (!tensor) throw fail(suffix, "no such tensor", "one beside the packed weight");
    return tensor;
  };
  const floats = (suffix: string, length: number): Float32Array => {
    const tensor = need(suffix);
    if (tensor.dtype !== "F32" || tensor.data.byteLength !== 4 * length) {
      throw fail(suffix, `${tensor.dtype} of ${tensor.data.byteLength} bytes`, `F32 of ${length} elements`);
    }
    return new Float32Array(tensor.data.slice().buffer);
  };
  const bytes = (suffix: string, length: number): Uint8Array => {
    const tensor = need(suffix);
    if (tensor.data.byteLength !== length) throw fail(suffix, `${tensor.data.byteLength} bytes`, `${length} bytes`);
    return tensor.data;
  };

  if (tensors.has(`${name}${STATE_SUFFIX}fp4`)) throw fail("", "an FP4 weight", "NF4");
  const jsonSuffix = `${STATE_SUFFIX}nf4`;
  const header = parseNf4State(need(jsonSuffix).data, file, `tensor ${show(name + jsonSuffix)}`);
  const elements = header.shape.reduce((n, size) => n * size, 1);
  const blocks = Math.ceil(elements / header.blockSize);
  // The packed weight may be stored under another dtype (bnb_4bit_quant_storage): its bytes are the same.
  const data = bytes("", Math.ceil(elements / 2));
  const code = floats(".quant_map", 16);
  const wrong = code.findIndex((value, i) => !(Math.abs(value - NF4_CODE[i]!) <= 1e-6));
  if (wrong >= 0) throw fail(".quant_map", `${code[wrong]} at ${wrong}`, `the NF4 code, ${NF4_CODE[wrong]} there`);
  const { shape, dtype, blockSize, nested } = header;
  if (!nested) return { data, state: { shape, dtype, blockSize, absmax: floats(".absmax", blocks) } };
  if (need(".absmax").dtype !== "U8") throw fail(".absmax", need(".absmax").dtype, "U8, since the state is nested");
  const absmax: NestedAbsmax = {
    codes: bytes(".absmax", blocks).slice(),
    absmax: floats(".nested_absmax", Math.ceil(blocks / nested.blockSize)),
    map: floats(".nested_quant_map", 256),
    ...nested,
  };
  return { data, state: { shape, dtype, blockSize, absmax } };
}

/** What the JSON tensor of a weight says. */
export interface Nf4Header {
  shape: readonly number[];
  dtype: Nf4SourceDtype;
  blockSize: number;
  /** Double quantisation; null: plain f32 scales. */
  nested: { blockSize: number; offset: number } | null;
}

/** Reads `.quant_state.bitsandbytes__nf4`. Throws FormatError naming `file`, `field` and what is wrong. */
export function parseNf4State(bytes: Uint8Array, file: string, field: string): Nf4Header {
  const json = parseJsonObject(bytes, file, field);
  const check = <T>(key: string, ok: (value: unknown) => boolean, expected: string): T => {
    const value = json[key];
    if (!ok(value)) throw new FormatError({ file, field: `${field} ${key}`, found: show(value), expected });
    return value as T;
  };
  const oneOf =
    <T>(list: readonly T[]) =>
    (value: unknown): boolean =>
      list.includes(value as T);
  check("quant_type", oneOf(["nf4"]), '"nf4"');
  const blockSize: number = check("blocksize", oneOf(NF4_BLOCK_SIZES), `one of ${NF4_BLOCK_SIZES.join(", ")}`);
  const dtype: Nf4SourceDtype = check("dtype", oneOf(NF4_SOURCE_DTYPES), `one of ${NF4_SOURCE_DTYPES.join(", ")}`);
  const shape: number[] = check("shape", isShape, "an array of positive integers, fewer than 2^53 elements in all");
  if (!("nested_blocksize" in json)) return { shape, dtype, blockSize, nested: null };
  // The kernels divide the block index by 256, the only size bitsandbytes writes.
  const nestedBlockSize: number = check("nested_blocksize", oneOf([256]), "256");
  check("nested_dtype", oneOf(["float32"]), '"float32"');
  const offset: number = check("nested_offset", Number.isFinite, "a number");
  return { shape, dtype, blockSize, nested: { blockSize: nestedBlockSize, offset: Math.fround(offset) } };
}

function isShape(value: unknown): boolean {
  if (!Array.isArray(value) || !value.every((size) => Number.isSafeInteger(size) && size > 0)) return false;
  return value.reduce((n: number, size: number) => n * size, 1) <= Number.MAX_SAFE_INTEGER;
}

/** The tensors of a weight, as bitsandbytes names and shapes them, byte for byte. */
export function writeNf4Weight(name: string, { data, state }: Nf4Weight): Map<string, NamedTensor> {
  const { shape, dtype, blockSize, absmax } = state;
  const f32 = (x: Float32Array): NamedTensor => ({
    dtype: "F32",
    shape: [x.length],
    data: new Uint8Array(x.buffer, x.byteOffset, x.byteLength),
  });
  const u8 = (x: Uint8Array, ...rest: number[]): NamedTensor => ({ dtype: "U8", shape: [x.length, ...rest], data: x });
  const out = new Map<string, NamedTensor>([[name, u8(data, 1)]]);
  let nested: Nf4Header["nested"] = null;
  if (absmax instanceof Float32Array) {
    out.set(`${name}.absmax`, f32(absmax));
  } else {
    out.set(`${name}.absmax`, u8(absmax.codes));
    out.set(`${name}.nested_absmax`, f32(absmax.absmax));
    out.set(`${name}.nested_quant_map`, f32(absmax.map));
    nested = absmax;
  }
  out.set(`${name}.quant_map`, f32(Float32Array.from(NF4_CODE)));
  out.set(`${name}${STATE_SUFFIX}nf4`, u8(encodeNf4State({ shape, dtype, blockSize, nested })));
  return out;
}

/** The JSON tensor of a weight, byte for byte as Python's json writes it. */
export function encodeNf4State({ shape, dtype, blockSize, nested }: Nf4Header): Uint8Array {
  let json = `{"quant_type": "nf4", "blocksize": ${blockSize}, "dtype": "${dtype}", "shape": [${shape.join(", ")}]`;
  if (nested) {
    const offset = pythonFloat(nested.offset);
    json += `, "nested_blocksize": ${nested.blockSize}, "nested_dtype": "float32", "nested_offset": ${offset}`;
  }
  return new TextEncoder().encode(`${json}}`);
}
