import { type DType, GraphError, type Shape } from "../../graph/types.ts";
import type { PartName, TensorOptions } from "../backend.ts";
import { StoredTensor } from "../stored-tensor.ts";
import { type Address, type CpuRuntime, type KernelArgument, MAX_VIEW_BYTES } from "./runtime.ts";

const WEIGHT_TYPES: Partial<Record<DType, number>> = { f32: 0, bf16: 1, f16: 2 };
const NF4 = 3;
const NF4_DOUBLE = 4;
const INT8 = 5;

/** A tensor in a CPU runtime's memory. */
export class CpuTensor extends StoredTensor {
  private readonly runtime: CpuRuntime;

  constructor(
    runtime: CpuRuntime,
    name: string,
    dtype: DType,
    shape: Shape,
    options: TensorOptions,
    released: (tensor: CpuTensor) => void,
  ) {
    super(name, dtype, shape, options, released);
    this.runtime = runtime;
    try {
      this.takeParts((bytes) => runtime.alloc(Math.max(bytes, 4)));
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new Error(`no memory for ${name} (${dtype}[${shape.join(",")}], ${this.bytes} bytes): ${reason}`, {
        cause: error,
      });
    }
  }

  /** The kernels' 7 words for this tensor as a matrix. */
  weightWords(): KernelArgument[] {
    if (!this.quantization) {
      const type = WEIGHT_TYPES[this.dtype];
      if (type === undefined) throw new GraphError(`tensor ${this.name} of type ${this.dtype} cannot be a weight`);
      return [type, this.address(), 0, 0, 0, 0, 64];
    }
    const { blockSize, doubleQuant } = this.quantization;
    if (!doubleQuant)
      return [this.dtype === "int8" ? INT8 : NF4, this.address(), this.address("absmax"), 0, 0, 0, blockSize];
    const scales = [this.address("absmax"), this.address("nested"), this.address("map")];
    return [NF4_DOUBLE, this.address(), ...scales, this.nestedOffset, blockSize];
  }

  write(data: Uint8Array, at: { part?: PartName; offset?: number } = {}): void {
    const start = this.placeOf(data.byteLength, at);
    for (let done = 0; done < data.byteLength; done += MAX_VIEW_BYTES) {
      const piece = data.subarray(done, done + MAX_VIEW_BYTES);
      this.runtime.bytes(start + done, piece.byteLength).set(piece);
    }
  }

  async read(part: PartName = "data"): Promise<Uint8Array> {
    const bytes = this.parts.get(part) ?? 0;
    const copy = new Uint8Array(bytes);
    for (let done = 0; done < bytes; done += MAX_VIEW_BYTES) {
      copy.set(this.runtime.bytes(this.address(part) + done, Math.min(MAX_VIEW_BYTES, bytes - done)), done);
    }
    return copy;
  }

  protected freePart(address: Address): void {
    this.runtime.free(address);
  }
}
