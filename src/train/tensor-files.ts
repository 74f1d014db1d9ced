import type { DeviceTensor } from "../backends/backend.ts";
import {
  openSafetensors,
  type SafetensorsDtype,
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

/** Fill device tensors from a file that holds exactly them; gives the file's metadata. */
export async function readTensors(
  path: string,
  tensors: ReadonlyMap<string, DeviceTensor>,
): Promise<ReadonlyMap<string, string>> {
  using file = openSafetensors(path);
  // All is checked before anything is changed.
  for (const [name, tensor] of tensors) {
    const info = file.tensors.get(name);
    if (!info) throw new Error(`${path}: tensor "${name}" is missing`);
    const [found, wanted] = [
      `${info.dtype}[${info.shape.join(",")}]`,
      `${safetensorsType(tensor)}[${tensor.shape.join(",")}]`,
    ];
    if (found !== wanted) throw new Error(`${path}: tensor "${name}" is ${found}; this training needs ${wanted}`);
  }
  for (const name of file.tensors.keys()) {
    if (!tensors.has(name))
      throw new Error(`${path}: tensor "${name}" is not part of this training; was it started with other settings?`);
  }
  for (const [name, tensor] of tensors) {
    const bytes = new Uint8Array(tensor.bytes);
    await file.readInto(name, bytes);
    tensor.write(bytes);
  }
  return file.metadata;
}

function safetensorsType(tensor: DeviceTensor): SafetensorsDtype {
  const dtype = DTYPES[tensor.dtype];
  if (!dtype) throw new Error(`${tensor.name}: a tensor of type ${tensor.dtype} cannot be saved here`);
  return dtype;
}
