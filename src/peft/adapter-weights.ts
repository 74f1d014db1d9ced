import type { DeviceTensor } from "../backends/backend.ts";
import { FormatError, show } from "../formats/errors.ts";
import type { SafetensorsInfo, SafetensorsSource } from "../formats/safetensors.ts";
import { DTYPE_BYTES, numel, type Shape } from "../graph/types.ts";
import { convertDense } from "../models/load/convert.ts";
import type { CausalLM } from "../models/model.ts";
import { baseParameter } from "./attach.ts";
import { type AdapterTensorSpec, baseWeightNames, EMBEDDING_WEIGHT, HEAD_WEIGHT, isDuplicateBias } from "./layout.ts";
import { openWeight, PIECE } from "./weights.ts";

const DTYPES = { F32: "f32", F16: "f16", BF16: "bf16" } as const;
type FileDtype = keyof typeof DTYPES;

/**
 * Checks an adapter file's tensors against what its configuration says there must be. Returns the base weights of
 * embedding and head that came along, by parameter. Throws FormatError naming file and tensor.
 */
export function matchTensors(
  source: SafetensorsSource,
  layout: readonly AdapterTensorSpec[],
): Map<string, SafetensorsInfo> {
  const expected = new Set<string>();
  const missing: AdapterTensorSpec[] = [];
  for (const spec of layout) {
    for (const name of [spec.name, ...spec.aliases]) expected.add(name);
    const info = source.tensors.get(spec.name);
    if (info) checkTensor(source.path, info, spec.shape, spec.target ? "r, rank_pattern and the model" : "the model");
    else missing.push(spec);
  }
  const bases = new Map<string, SafetensorsInfo>();
  for (const parameter of [EMBEDDING_WEIGHT, HEAD_WEIGHT]) {
    const name = baseWeightNames(parameter).find((name) => source.tensors.has(name) && !expected.has(name));
    if (name !== undefined) bases.set(parameter, source.tensors.get(name)!);
  }
  const based = new Set([...bases.values()].map(({ name }) => name));
  const unexpected = [...source.tensors.keys()].filter(
    (name) => !expected.has(name) && !based.has(name) && !isDuplicateBias(name),
  );
  if (missing.length > 0) {
    const near = unexpected.length > 0 ? `; not expected, but there: ${listed(unexpected)}` : "";
    throw new FormatError({
      file: source.path,
      field: `tensor ${show(missing[0]!.name)}`,
      found: `nothing${others(missing.length)}`,
      expected: `the tensors that adapter_config.json calls for on this model${near}`,
    });
  }
  if (unexpected.length > 0) {
    throw new FormatError({
      file: source.path,
      field: `tensor ${show(unexpected[0])}`,
      found: `a tensor that adapter_config.json does not call for on this model${others(unexpected.length)}`,
      expected: "only A and B of the targeted modules, modules_to_save, and biases",
    });
  }
  return bases;
}

/** Copies a file's tensor into one of the adapter's, widened to f32, a few MiB at a time. */
export async function fillTensor(source: SafetensorsSource, name: string, tensor: DeviceTensor): Promise<void> {
  let offset = 0;
  for await (const piece of pieces(source, source.tensors.get(name)!)) {
    tensor.write(piece, { offset });
    offset += piece.byteLength;
  }
}

/**
 * The base weight that an adapter file brings along, as a tensor, if it is not what the model has; else null. PEFT loads
 * it over the model's; here it is only used while the adapter is. Throws FormatError when its shape is another.
 */
export async function baseOverride(
  source: SafetensorsSource,
  info: SafetensorsInfo,
  model: CausalLM,
  parameter: string,
): Promise<DeviceTensor | null> {
  const base = baseParameter(model, parameter);
  checkTensor(
    source.path,
    info,
    base.shape,
    "the model (if the vocabulary was resized for the adapter, resize it first)",
  );
  const own = await openWeight(model.backend, base);
  let at = 0;
  let same = true;
  for await (const piece of pieces(source, info)) {
    const values = new Float32Array(piece.buffer, piece.byteOffset, piece.byteLength / 4);
    const base = own(at, values.length);
    same &&= values.every((value, i) => value === base[i]);
    at += values.length;
  }
  if (same) return null;
  const tensor = model.backend.createTensor(info.name, "f32", base.shape, { role: "adapter" });
  try {
    await fillTensor(source, info.name, tensor);
    return tensor;
  } catch (error) {
    tensor.dispose();
    throw error;
  }
}

function checkTensor(file: string, info: SafetensorsInfo, shape: Shape, by: string): void {
  const fail = (part: string, found: string, expected: string): never => {
    throw new FormatError({ file, field: `tensor ${show(info.name)} ${part}`, found, expected });
  };
  if (!Object.hasOwn(DTYPES, info.dtype)) fail("dtype", info.dtype, "F32, F16 or BF16");
  if (info.shape.join() !== shape.join()) {
    fail("shape", `[${info.shape.join(", ")}]`, `[${shape.join(", ")}], by ${by}`);
  }
}

/** A tensor's numbers as f32 bytes. Each piece is valid until the next. */
async function* pieces(source: SafetensorsSource, info: SafetensorsInfo): AsyncGenerator<Uint8Array> {
  const dtype = DTYPES[info.dtype as FileDtype];
  const size = DTYPE_BYTES[dtype];
  const count = numel(info.shape);
  const raw = new Uint8Array(Math.min(count, PIECE) * size);
  for (let at = 0; at < count; at += PIECE) {
    const piece = raw.subarray(0, Math.min(PIECE, count - at) * size);
    await source.readInto(info.name, piece, at * size, piece.length);
    yield convertDense(piece, dtype, "f32", info.name);
  }
}

const others = (count: number): string => (count > 1 ? ` (and ${count - 1} more like it)` : "");
const listed = (names: readonly string[]): string =>
  names.slice(0, 3).map(show).join(", ") + (names.length > 3 ? ", …" : "");
