import { type DType, GraphError, type Shape } from "../../graph/types.ts";
import type { DeviceTensor, PartName, TensorOptions, TensorRole } from "../backend.ts";
import { checkedWrite, nextTensorId, tensorLayout } from "../tensor-layout.ts";
import type { CudaDevice } from "./device.ts";
import type { DevicePointer } from "./driver.ts";

/** A tensor in a GPU's memory, or in the host's for it to read: one allocation a part, zero when made. */
export class CudaTensor implements DeviceTensor {
  readonly id = nextTensorId();
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
  readonly role: TensorRole;
  readonly bytes: number;
  readonly quantization: { readonly blockSize: number; readonly doubleQuant: boolean } | null;
  readonly parts: ReadonlyMap<PartName, number>;
  nestedOffset = 0;
  private readonly device: CudaDevice;
  private readonly addresses = new Map<PartName, DevicePointer>();
  /** In page-locked memory of the host. */
  readonly host: boolean;
  /** Never multiplied in 8 bits. */
  readonly precise: boolean;
  private readonly released: (tensor: CudaTensor) => void;

  constructor(
    device: CudaDevice,
    name: string,
    dtype: DType,
    shape: Shape,
    options: TensorOptions,
    released: (tensor: CudaTensor) => void,
  ) {
    this.device = device;
    this.name = name;
    this.dtype = dtype;
    this.shape = shape;
    this.role = options.role;
    this.host = options.host ?? false;
    this.precise = options.precise ?? false;
    this.released = released;
    const layout = tensorLayout(dtype, shape, options);
    this.quantization = layout.quantization;
    this.parts = layout.parts;
    this.bytes = layout.bytes;
    try {
      for (const [part, bytes] of this.parts) {
        const address = this.host ? Number(device.allocPinned(bytes, "kernels")) : device.alloc(bytes);
        this.addresses.set(part, address);
        if (this.host) device.view(BigInt(address), bytes).fill(0);
        else device.clear(address, bytes);
      }
    } catch (error) {
      this.freeParts();
      if (error instanceof Error)
        error.message = `no memory for ${name} (${dtype}[${shape.join(",")}]): ${error.message}`;
      throw error;
    }
  }

  address(part: PartName = "data"): DevicePointer {
    const address = this.addresses.get(part);
    if (address === undefined) throw new GraphError(`tensor ${this.name} has been disposed or has no ${part}`);
    return address;
  }

  write(data: Uint8Array, at: { part?: PartName; offset?: number } = {}): void {
    const { part, offset } = checkedWrite(this, data.byteLength, at);
    const address = this.address(part) + offset;
    if (this.host) {
      this.device.synchronize();
      this.device.view(BigInt(address), data.byteLength).set(data);
    } else this.device.upload(address, data);
  }

  async read(part: PartName = "data"): Promise<Uint8Array> {
    const [address, bytes] = [this.address(part), this.parts.get(part) ?? 0];
    if (!this.host) return this.device.download(address, bytes);
    this.device.synchronize();
    return this.device.view(BigInt(address), bytes).slice();
  }

  dispose(): void {
    if (this.addresses.size === 0) return;
    this.device.synchronize();
    this.freeParts();
    this.released(this);
  }

  private freeParts(): void {
    for (const address of this.addresses.values()) {
      if (this.host) this.device.freePinned(BigInt(address));
      else this.device.free(address);
    }
    this.addresses.clear();
  }
}
