import { Cudnn, type CudnnPlan, HostNumbers } from "./cudnn.ts";
import type { OperationGraph, SdpaShape } from "./cudnn-graph.ts";
import type { CudaDevice } from "./device.ts";
import { CUDNN, loadLibrary } from "./library.ts";
import { compileCached } from "./nvrtc.ts";
import { SequenceArrays } from "./sequence-arrays.ts";

/** Hopper's engines are what was measured; others have no deterministic gradient of packed sequences, or other rules. */
const CAPABILITY = 90;
/** Oldest cuDNN: 9.10.2; the two before it have wrong gradients (its release notes). */
const OLDEST = 91002;

const notes: string[] = [];

/** Why attention of this process ran on this project's own kernels although cuDNN is there, one line each. */
export const cudnnNotes = (): readonly string[] => notes;

function note(what: string, error: unknown): void {
  const text = `${what}: ${error instanceof Error ? error.message : String(error)}`;
  notes.push(text);
  if (process.env.UNSLOTH_DEBUG) console.error(`cuDNN is not used for ${text}`);
}

/** Fused attention of one device: its library, the plans made so far, and arrays of a run's sequences. */
export class CudnnAttention {
  readonly cudnn: Cudnn;
  readonly arrays: SequenceArrays;
  private readonly plans = new Map<string, CudnnPlan | null>();
  private readonly device: CudaDevice;
  private readonly numbers = new HostNumbers();

  /** Throws CudaError when the library does not start or is too old. */
  constructor(device: CudaDevice) {
    this.device = device;
    this.cudnn = new Cudnn(device.stream, OLDEST);
    this.arrays = new SequenceArrays(device);
  }

  /** The plan of a graph that needs at most `scratch` bytes; null, with a note the first time, when there is none. */
  plan(name: string, shape: SdpaShape, graph: (shape: SdpaShape) => OperationGraph, scratch: number): CudnnPlan | null {
    const key = `${name} ${JSON.stringify(shape)}`;
    let plan = this.plans.get(key);
    if (plan !== undefined) return plan;
    plan = null;
    try {
      const found = this.planned(graph(shape));
      if (found.workspaceBytes <= scratch) plan = found;
      else note(key, `its plan needs ${found.workspaceBytes} bytes of memory, there are ${scratch}`);
    } catch (error) {
      note(key, error);
    }
    this.plans.set(key, plan);
    return plan;
  }

  /** A plan from the cache of compiled kernels, where it is put the first time. */
  private planned(graph: OperationGraph): CudnnPlan {
    const { cudnn } = this;
    const { info } = this.device;
    const card = `sm_${info.computeCapability}` as const;
    const version = [Math.floor(cudnn.version / 100), cudnn.version % 100] as const;
    let made: CudnnPlan | undefined;
    const compile = (): Uint8Array => {
      made = cudnn.plan(graph);
      return cudnn.serialize(made);
    };
    const source = JSON.stringify([graph, info]);
    const text = compileCached({ version, compile }, source, "cudnn", card, []);
    try {
      return cudnn.restore(text, graph);
    } catch {
      return made ?? cudnn.plan(graph);
    }
  }

  /** The address of a number in host memory. */
  number(value: number): bigint {
    return this.numbers.address(value);
  }

  dispose(): void {
    this.cudnn.dispose();
    this.arrays.dispose();
  }
}

const devices = new WeakMap<CudaDevice, CudnnAttention | null>();

/** A device's fused attention; null where it has none, where it does not start, or with UNSLOTH_CUDNN=0. */
export function cudnnAttention(device: CudaDevice): CudnnAttention | null {
  if (process.env.UNSLOTH_CUDNN === "0" || device.info.computeCapability !== CAPABILITY) return null;
  const known = devices.get(device);
  if (known !== undefined) return known;
  const opened = open(device);
  devices.set(device, opened);
  return opened;
}

function open(device: CudaDevice): CudnnAttention | null {
  // A device that only plans has no stream.
  if (device.stream === undefined) return null;
  try {
    loadLibrary(CUDNN);
  } catch {
    return null;
  }
  try {
    return new CudnnAttention(device);
  } catch (error) {
    note("attention", error);
    return null;
  }
}

/** Ends a device's fused attention, if it was used. */
export function closeCudnn(device: CudaDevice): void {
  devices.get(device)?.dispose();
  devices.set(device, null);
}
