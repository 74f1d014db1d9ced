import type { Program } from "../../graph/program.ts";
import type { FloatDType } from "../../graph/types.ts";
import type { Executable } from "../backend.ts";
import type { Launch } from "./device.ts";
import type { DeviceInfo } from "./driver.ts";
import { LOWERINGS } from "./lower.ts";
import type { Lowering } from "./lowering.ts";
import { SketchCudaBackend } from "./sketch.ts";
import { CudaTensor } from "./tensor.ts";

/** Thrown where a collected program would have run. */
export class NotRun extends Error {}

/** A backend without a card that notes which kernels programs would launch on one of a given compute capability. */
export class CollectingBackend extends SketchCudaBackend {
  /** Launches by source, names and kernel: one of each. */
  readonly launches = new Map<string, Launch>();

  constructor(computeDtype: FloatDType, computeCapability: number, fp8 = false) {
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
    };
    super({ computeDtype, fp8 }, info);
  }

  override compile(program: Program): Executable {
    for (const node of program.steps) if (!node.op.view) LOWERINGS[node.op.name]!(node, this.collecting());
    return { program, execute: () => Promise.reject(new NotRun("collected")), dispose: () => undefined };
  }

  private collecting(): Lowering {
    const { computeCapability, multiprocessors } = this.device.info;
    const nothing = (): void => undefined;
    return {
      multiprocessors,
      computeCapability,
      fp8: this.fp8,
      address: (value) => (value ? 2 ** 32 : 0),
      tensor: (value) => {
        if (value.tensor instanceof CudaTensor) return value.tensor;
        throw new Error(`${value} is no tensor`);
      },
      scratch: () => 2 ** 33,
      scoped: (body) => body(),
      launch: (launch) => {
        this.launches.set(
          JSON.stringify([launch.file, launch.defines, launch.kernel, launch.sharedBytes ?? 0]),
          launch,
        );
      },
      product: nothing,
      copy: nothing,
      clear: nothing,
      sized: (labels, _step, emit) => emit(labels.shape[0]!),
      offload: nothing,
      fetch: nothing,
      wait: nothing,
    };
  }
}
