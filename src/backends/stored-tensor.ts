import { type DType, GraphError, type Shape } from "../graph/types.ts";
import type { DeviceTensor, PartName, TensorOptions, TensorRole } from "./backend.ts";
import { tensorLayout } from "./tensor-layout.ts";

let lastTensorId = 0;

/** A tensor of one allocation a part, whatever memory these are in: below 2^53, so that numbers do for addresses. */
export abstract class StoredTensor implements DeviceTensor {
  /** A number no other tensor of this process has: graphs tell tensors apart by it. */
  readonly id = ++lastTensorId;
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
  readonly role: TensorRole;
  readonly bytes: number;
  readonly quantization: { readonly blockSize: number; readonly doubleQuant: boolean } | null;
  readonly parts: ReadonlyMap<PartName, number>;
  nestedOffset = 0;
  private readonly addresses = new Map<PartName, number>();
  private readonly released: (tensor: this) => void;

  /** `released` is told of this tensor when its memory is free; a backend knows its own class of tensors only. */
  constructor(name: string, dtype: DType, shape: Shape, options: TensorOptions, released: (tensor: never) => void) {
    this.name = name;
    this.dtype = dtype;
    this.shape = shape;
    this.role = options.role;
    this.released = released as (tensor: this) => void;
    const { quantization, parts, bytes } = tensorLayout(dtype, shape, options);
    this.quantization = quantization;
    this.parts = parts;
    this.bytes = bytes;
  }

  abstract write(data: Uint8Array, at?: { part?: PartName; offset?: number }): void;
  abstract read(part?: PartName): Promise<Uint8Array>;
  protected abstract freePart(address: number): void;

  address(part: PartName = "data"): number {
    const address = this.addresses.get(part);
    if (address === undefined) throw new GraphError(`tensor ${this.name} has been disposed or has no ${part}`);
    return address;
  }

  get disposed(): boolean {
    return this.addresses.size === 0;
  }

  dispose(): void {
    if (this.disposed) return;
    this.freeParts();
    this.released(this);
  }

  /** Takes the memory of every part and prepares it; of none when either throws. */
  protected takeParts(
    take: (bytes: number) => number,
    prepare: (address: number, bytes: number) => void = () => undefined,
  ): void {
    try {
      for (const [part, bytes] of this.parts) {
        const address = take(bytes);
        this.addresses.set(part, address);
        prepare(address, bytes);
      }
    } catch (error) {
      this.freeParts();
      throw error;
    }
  }

  /** Where `length` bytes at `offset` of a part go; a RangeError unless they lie inside it. */
  protected placeOf(length: number, { part = "data", offset = 0 }: { part?: PartName; offset?: number }): number {
    const size = this.parts.get(part) ?? 0;
    if (offset + length > size)
      throw new RangeError(`${this.name}: writing ${length} bytes at ${offset} of its ${part} (${size} bytes)`);
    return this.address(part) + offset;
  }

  private freeParts(): void {
    for (const address of this.addresses.values()) this.freePart(address);
    this.addresses.clear();
  }
}
