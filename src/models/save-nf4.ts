import type { DeviceTensor, PartName } from "../backends/backend.ts";
import type { TensorToWrite } from "../formats/safetensors.ts";
import { GraphError, numel } from "../graph/types.ts";
import { NESTED_BLOCK_SIZE, NF4_CODE } from "../quant/nf4.ts";
import { encodeNf4State } from "../quant/nf4-state.ts";
import type { DTypeName } from "./load/dtypes.ts";
import type { CausalLM } from "./model.ts";
import { parameterSpecs } from "./parameters.ts";

/** An NF4 weight as bitsandbytes saves it: QuantState.as_dict(packed=True) beside the packed numbers. */
export function* nf4Tensors(tensor: DeviceTensor, dtype: DTypeName): Generator<TensorToWrite> {
  const { name, shape, quantization } = tensor;
  if (!quantization) throw new GraphError(`${name} of type ${tensor.dtype} cannot be saved`);
  const { blockSize, doubleQuant } = quantization;
  const blocks = Math.ceil(numel(shape) / blockSize);
  yield { name, dtype: "U8", shape: [Math.ceil(numel(shape) / 2), 1], data: part(tensor, "data") };
  const absmax = { name: `${name}.absmax`, shape: [blocks], data: part(tensor, "absmax") };
  yield { ...absmax, dtype: doubleQuant ? "U8" : "F32" };
  yield { name: `${name}.quant_map`, dtype: "F32", shape: [16], data: bytesOf(Float32Array.from(NF4_CODE)) };
  if (doubleQuant) {
    const nested = { shape: [Math.ceil(blocks / NESTED_BLOCK_SIZE)], data: part(tensor, "nested") };
    yield { name: `${name}.nested_absmax`, dtype: "F32", ...nested };
    yield { name: `${name}.nested_quant_map`, dtype: "F32", shape: [256], data: part(tensor, "map") };
  }
  const nested = doubleQuant ? { blockSize: NESTED_BLOCK_SIZE, offset: tensor.nestedOffset } : null;
  const data = encodeNf4State({ shape, dtype, blockSize, nested });
  yield { name: `${name}.quant_state.bitsandbytes__nf4`, dtype: "U8", shape: [data.length], data };
}

async function* part(tensor: DeviceTensor, name: PartName): AsyncGenerator<Uint8Array> {
  yield await tensor.read(name);
}

function bytesOf(array: Float32Array): Uint8Array {
  return new Uint8Array(array.buffer);
}

/** config.json's quantization_config, from the one the model came with; null when nothing is quantised. */
export function quantizationConfig(model: CausalLM, dtype: DTypeName, loaded: unknown): Record<string, unknown> | null {
  const linears = parameterSpecs(model.config).filter(({ kind }) => kind === "linear" || kind === "head");
  const tensors = linears.map(({ name }) => model.parameter(name));
  const quantized = tensors.filter((tensor) => tensor.dtype === "nf4");
  if (quantized.length === 0) return null;
  // null: all but the head. With others left dense the list has to name every one.
  const plain = tensors
    .filter((tensor) => tensor.dtype !== "nf4")
    .map((tensor) => tensor.name.replace(/\.weight$/, ""));
  const others = plain.some((module) => module !== "lm_head");
  return {
    _load_in_4bit: true,
    _load_in_8bit: false,
    bnb_4bit_compute_dtype: dtype,
    bnb_4bit_quant_storage: "uint8",
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_threshold: 6.0,
    ...(loaded !== null && typeof loaded === "object" ? loaded : {}),
    bnb_4bit_quant_type: "nf4",
    bnb_4bit_use_double_quant: quantized.some((tensor) => tensor.quantization!.doubleQuant),
    llm_int8_skip_modules: others ? plain : null,
    load_in_4bit: true,
    load_in_8bit: false,
    quant_method: "bitsandbytes",
  };
}
