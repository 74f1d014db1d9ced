import type { Node } from "../../graph/graph.ts";
import { aligned } from "../../graph/liveness.ts";
import type { Program } from "../../graph/program.ts";
import { type FloatDType, numel } from "../../graph/types.ts";
import type { Executable } from "../backend.ts";
import { sharedLimit } from "./attention-tiles.ts";
import { PRODUCT_OUTPUTS, type Product } from "./cublaslt.ts";
import type { Launch } from "./device.ts";
import type { DeviceInfo } from "./driver.ts";
import { LOWERINGS } from "./lower.ts";
import type { Lowering } from "./lowering.ts";
import { SketchCudaBackend } from "./sketch.ts";
import { CudaTensor } from "./tensor.ts";

/** Thrown where a collected program would have run. */
export class NotRun extends Error {}

/**
 * A backend without a card that notes which kernels and products programs would run on one of a given compute capability,
 * and throws where cuBLASLt has nothing for a product's types, or a kernel wants more shared memory than a block has.
 */
export class CollectingBackend extends SketchCudaBackend {
  /** Launches by source, names and kernel: one of each. */
  readonly launches = new Map<string, Launch>();
  /** The most scratch that a node has at a time, rounded up as the arena's blocks are. */
  readonly scratch = new Map<Node, number>();
  /** One of each kind. */
  readonly products = new Map<string, Product>();

  constructor(
    computeDtype: FloatDType,
    computeCapability: number,
    fp8 = false,
    card: Partial<Omit<DeviceInfo, "computeCapability">> = {},
  ) {
    const sharedBytes = (computeCapability < 80 ? 64 : 163) * 1024;
    const info: DeviceInfo = {
      id: 0,
      index: 0,
      name: "a card",
      bytes: 2 ** 34,
      computeCapability,
      multiprocessors: 80,
      sharedBytes,
      l2Bytes: 2 ** 22,
      ...card,
    };
    super({ computeDtype, fp8 }, info);
  }

  override compile(program: Program): Executable {
    for (const node of program.steps) if (!node.op.view) LOWERINGS[node.op.name]!(node, this.collecting(node));
    return { program, execute: () => this.outputs(program), dispose: () => undefined };
  }

  /** What a run gives. */
  protected outputs(_program: Program): Promise<Record<string, Float32Array>> {
    return Promise.reject(new NotRun("collected"));
  }

  private collecting(node: Node): Lowering {
    const { computeCapability, multiprocessors } = this.device.info;
    const nothing = (): void => undefined;
    let used = 0;
    return {
      multiprocessors,
      computeCapability,
      fp8: this.fp8,
      address: (value) => (value ? 2 ** 32 : 0),
      tensor: (value) => {
        if (value.tensor instanceof CudaTensor) return value.tensor;
        throw new Error(`${value} is no tensor`);
      },
      scratch: (bytes) => {
        used += aligned(bytes);
        this.scratch.set(node, Math.max(used, this.scratch.get(node) ?? 0));
        return 2 ** 33 + used;
      },
      scoped: (body) => {
        const before = used;
        body();
        used = before;
      },
      launch: (launch) => {
        const most = sharedLimit(computeCapability);
        if ((launch.sharedBytes ?? 0) > most)
          throw new Error(`${launch.kernel} wants ${launch.sharedBytes} bytes of shared memory; a block has ${most}`);
        this.launches.set(
          JSON.stringify([launch.file, launch.defines, launch.kernel, launch.sharedBytes ?? 0]),
          launch,
        );
      },
      product: (product) => {
        const { input, output } = product;
        if (!PRODUCT_OUTPUTS[input].includes(output))
          throw new Error(`${node.op.name} in ${node.scope} multiplies ${input} to ${output}, which cuBLASLt does not`);
        this.products.set(JSON.stringify(product), product);
      },
      copy: nothing,
      clear: nothing,
      sized: (labels, _step, emit) => emit(labels.shape[0]!),
      offload: nothing,
      fetch: nothing,
      wait: nothing,
    };
  }
}

/** The same where programs run, as far as the host can see: what they give is zeros. */
export class ZerosBackend extends CollectingBackend {
  protected override outputs(program: Program): Promise<Record<string, Float32Array>> {
    const zeros = [...program.outputs].map(([name, value]) => [name, new Float32Array(numel(value.shape))] as const);
    return Promise.resolve(Object.fromEntries(zeros));
  }
}
