import type { DType, Shape } from "../../graph/types.ts";
import type { PartName, TensorOptions } from "../backend.ts";
import { StoredTensor } from "../stored-tensor.ts";
import type { CudaDevice } from "./device.ts";
import type { DevicePointer } from "./driver.ts";

/** A tensor in a GPU's memory, or in the host's for it to read, zero when made. */
export class CudaTensor extends StoredTensor {
  /** In page-locked memory of the host. */
  readonly host: boolean;
  /** Never multiplied in 8 bits. */
  readonly precise: boolean;
  private readonly device: CudaDevice;

  constructor(
    device: CudaDevice,
    name: string,
    dtype: DType,
    shape: Shape,
    options: TensorOptions,
    released: (tensor: CudaTensor) => void,
  ) {
    super(name, dtype, shape, options, released);
    this.device = device;
    this.host = options.host ?? false;
    this.precise = options.precise ?? false;
    try {
      this.takeParts(
        (bytes) => (this.host ? Number(device.allocPinned(bytes, "kernels")) : device.alloc(bytes)),
        (address, bytes) => this.clear(address, bytes),
      );
    } catch (error) {
      if (error instanceof Error)
        error.message = `no memory for ${name} (${dtype}[${shape.join(",")}]): ${error.message}`;
      throw error;
    }
  }

  write(data: Uint8Array, at: { part?: PartName; offset?: number } = {}): void {
    const address = this.placeOf(data.byteLength, at);
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

  override dispose(): void {
    if (!this.disposed) this.device.synchronize();
    super.dispose();
  }

  protected freePart(address: DevicePointer): void {
    if (this.host) this.device.freePinned(BigInt(address));
    else this.device.free(address);
  }

  private clear(address: DevicePointer, bytes: number): void {
    if (this.host) this.device.view(BigInt(address), bytes).fill(0);
    else this.device.clear(address, bytes);
  }
}
