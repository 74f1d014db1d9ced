import type { DeviceTensor } from "../backends/backend.ts";
import { FormatError, show } from "../formats/errors.ts";
import {
  openSafetensors,
  type SafetensorsDtype,
  type SafetensorsSource,
  type TensorToWrite,
  writeSafetensors,
} from "../formats/safetensors.ts";
import type { DType } from "../graph/types.ts";

const DTYPES: Partial<Record<DType, SafetensorsDtype>> = { f32: "F32", bf16: "BF16", f16: "F16", u8: "U8", i32: "I32" };

/** Write device tensors to a safetensors file, one at a time. */
export async function writeTensors(
  path: string,
  tensors: ReadonlyMap<string, DeviceTensor>,
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  const entries: TensorToWrite[] = [...tensors].map(([name, tensor]) => ({
    name,
    dtype: safetensorsType(tensor),
    shape: tensor.shape,
    data: (async function* () {
      yield await tensor.read();
    })(),
  }));
  await writeSafetensors(path, entries, metadata);
}

/** Fill device tensors from a file that holds exactly them; gives the file's metadata. Throws FormatError. */
export async function readTensors(
  path: string,
  tensors: ReadonlyMap<string, DeviceTensor>,
): Promise<ReadonlyMap<string, string>> {
  using file = openSafetensors(path);
  for (const name of file.tensors.keys()) {
    if (tensors.has(name)) continue;
    const expected = "only tensors of this training; was it started with other settings?";
    throw new FormatError({ file: path, field: "tensors", found: show(name), expected });
  }
  await fillTensors(file, tensors);
  return file.metadata;
}

/** Fill device tensors, bit for bit, from among a file's. Nothing is changed when one is missing or of another kind. */
export async function fillTensors(file: SafetensorsSource, tensors: ReadonlyMap<string, DeviceTensor>): Promise<void> {
  for (const [name, tensor] of tensors) {
    const info = file.tensors.get(name);
    const found = info ? `${info.dtype}[${info.shape.join(",")}]` : "no such tensor";
    const expected = `${safetensorsType(tensor)}[${tensor.shape.join(",")}]`;
    if (found !== expected) {
      throw new FormatError({ file: file.path, field: `tensor ${show(name)}`, found, expected });
    }
  }
  for (const [name, tensor] of tensors) {
    const bytes = new Uint8Array(tensor.bytes);
    await file.readInto(name, bytes);
    tensor.write(bytes);
  }
}

function safetensorsType(tensor: DeviceTensor): SafetensorsDtype {
  const dtype = DTYPES[tensor.dtype];
  if (!dtype) throw new Error(`${tensor.name}: a tensor of type ${tensor.dtype} cannot be saved here`);
  return dtype;
}
