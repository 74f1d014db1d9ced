import koffi from "koffi";
import type { GraphOp, GraphTensor, OperationGraph, Pointwise } from "./cudnn-graph.ts";
import type { DevicePointer, Handle } from "./driver.ts";
import { CudaError } from "./errors.ts";
import { CUDNN, loadLibrary } from "./library.ts";

type Call = (...args: (number | bigint | ArrayBufferView | null)[]) => number;

// Values of cudnn_graph.h (cuDNN 9): kinds of descriptors, attributes, types of attributes.
const DESCRIPTOR = {
  pointwise: 0, engineConfig: 3, heuristics: 4, plan: 5, pointwiseOp: 13, graph: 15, variantPack: 16, tensor: 17, matmul: 18,
  matmulOp: 19, reduction: 21, reductionOp: 22, reshapeOp: 31,
} as const; // biome-ignore format: a table
const TYPE = {
  handle: 0, dataType: 1, boolean: 2, int64: 3, pointer: 6, heuristicMode: 8, pointwiseMode: 14, descriptor: 15,
  reductionMode: 18, text: 24,
} as const; // biome-ignore format: a table
const POINTWISE = { mode: 0, mathType: 1, axis: 9 } as const;
const POINTWISE_OP = { descriptor: 750, x: 751, b: 752, y: 753, t: 758 } as const;
const MATMUL_TYPE = 1500;
const MATMUL_OP = { a: 1520, b: 1521, c: 1522, descriptor: 1523, m: 1525, n: 1526, k: 1527 } as const;
const REDUCTION = { mode: 1600, mathType: 1601 } as const;
const REDUCTION_OP = { x: 1610, y: 1611, descriptor: 1612 } as const;
const RESHAPE_OP = { x: 2200, y: 2201 } as const;
const TENSOR = {
  alignment: 900, dataType: 901, dims: 902, strides: 903, uid: 906, virtual: 907, byValue: 908, ragged: 913,
} as const; // biome-ignore format: a table
const GRAPH = { handle: 800, ops: 801 } as const;
const HEURISTICS = { mode: 200, graph: 201, results: 202 } as const;
const PLAN = { handle: 400, config: 401, workspace: 402, json: 405 } as const;
const PACK = { uids: 1000, pointers: 1001, workspace: 1003 } as const;

const DATA_TYPE: Record<GraphTensor["type"], number> = { f32: 0, f16: 2, i32: 4, bf16: 9, bool: 11 };
const POINTWISE_MODE: Record<Pointwise, number> = {
  add: 0, mul: 1, div: 6, sub: 9, exp: 13, log: 15, ge: 303, lt: 304, and: 400, index: 501, select: 601,
}; // biome-ignore format: a table
const REDUCTION_MODE = { add: 0, max: 3 } as const;
const HEURISTIC_MODE_A = 3;
const MOST_CONFIGS = 8;
const ALIGNMENT = 16;

/** A graph's chosen engine, ready to run. */
export interface CudnnPlan {
  readonly descriptor: Handle;
  readonly workspaceBytes: number;
  /** Tensors that a run has to be given. */
  readonly uids: readonly number[];
}

/** NVIDIA's library of fused kernels: operation graphs are planned once and then run on the device's stream. */
export class Cudnn {
  readonly path: string;
  /** 92600 is 9.26.0. */
  readonly version: number;
  private readonly calls: Record<string, Call>;
  private readonly handle: Handle;
  private readonly descriptors: Handle[] = [];

  /** Throws CudaUnavailableError when it is not found, CudaError when it is older than `oldest` or does not start. */
  constructor(stream: Handle, oldest: number) {
    const { handle, path } = loadLibrary(CUDNN);
    this.path = path;
    const bind = (signature: string): Call => handle.func(signature) as unknown as Call;
    this.version = Number((bind("size_t cudnnGetVersion()") as () => number)());
    if (this.version < oldest) throw new CudaError(`cuDNN ${this.version} at ${path} is older than ${oldest}`);
    this.calls = {
      create: bind("int cudnnCreate(void*)"),
      destroy: bind("int cudnnDestroy(uint64_t)"),
      setStream: bind("int cudnnSetStream(uint64_t, uint64_t)"),
      lastError: bind("void cudnnGetLastErrorString(void*, size_t)"),
      descriptorCreate: bind("int cudnnBackendCreateDescriptor(int, void*)"),
      descriptorDestroy: bind("int cudnnBackendDestroyDescriptor(uint64_t)"),
      finalize: bind("int cudnnBackendFinalize(uint64_t)"),
      set: bind("int cudnnBackendSetAttribute(uint64_t, int, int, int64_t, void*)"),
      get: bind("int cudnnBackendGetAttribute(uint64_t, int, int, int64_t, void*, void*)"),
      execute: bind("int cudnnBackendExecute(uint64_t, uint64_t, uint64_t)"),
    };
    const cell = new BigUint64Array(1);
    this.call("create", cell);
    this.handle = cell[0]!;
    this.call("setStream", this.handle, stream);
  }

  /** The best engine that supports a graph. Throws CudaError when there is none. */
  plan({ tensors, ops }: OperationGraph): CudnnPlan {
    const byUid = new Map<number, Handle>();
    for (const tensor of tensors) byUid.set(tensor.uid, this.tensor(tensor, byUid));
    const operations = ops.map((op) => this.operation(op, byUid));
    const graph = this.make(DESCRIPTOR.graph, (set) => {
      set(GRAPH.ops, TYPE.descriptor, BigUint64Array.from(operations));
      set(GRAPH.handle, TYPE.handle, BigUint64Array.of(this.handle));
    });
    let failure: unknown;
    for (const config of this.configs(graph)) {
      try {
        return this.finished(tensors, (set) => set(PLAN.config, TYPE.descriptor, BigUint64Array.of(config)));
      } catch (error) {
        failure ??= error;
      }
    }
    throw failure ?? new CudaError(`cuDNN ${this.version} has no engine for this graph`);
  }

  /** A plan with its compiled kernels as text, for this version of cuDNN on this kind of card. */
  serialize({ descriptor }: CudnnPlan): Uint8Array {
    const size = new BigInt64Array(1);
    this.call("get", descriptor, PLAN.json, TYPE.text, 0, size, null);
    const text = new Uint8Array(Number(size[0]));
    this.call("get", descriptor, PLAN.json, TYPE.text, text.length, size, text);
    return text;
  }

  /** A serialized plan of a graph, without planning and compiling again. */
  restore(text: Uint8Array, { tensors }: OperationGraph): CudnnPlan {
    return this.finished(tensors, (set) => set(PLAN.json, TYPE.text, text));
  }

  /** Enqueue a plan. `pointers`: of the plan's tensors, by uid; into host memory for those given by value. */
  execute(plan: CudnnPlan, pointers: ReadonlyMap<number, number | bigint>, workspace: DevicePointer): void {
    const pack = this.create(DESCRIPTOR.variantPack);
    try {
      const set = this.setter(pack);
      set(PACK.uids, TYPE.int64, BigInt64Array.from([...pointers.keys()], BigInt));
      set(PACK.pointers, TYPE.pointer, BigUint64Array.from([...pointers.values()], BigInt));
      set(PACK.workspace, TYPE.pointer, BigUint64Array.of(BigInt(workspace)));
      this.call("finalize", pack);
      this.call("execute", this.handle, plan.descriptor, pack);
    } finally {
      this.calls.descriptorDestroy!(pack);
    }
  }

  dispose(): void {
    for (const descriptor of this.descriptors.reverse()) this.calls.descriptorDestroy!(descriptor);
    this.descriptors.length = 0;
    this.calls.destroy!(this.handle);
  }

  private tensor({ uid, type, dims, strides, virtual, byValue, ragged }: GraphTensor, known: Map<number, Handle>) {
    return this.make(DESCRIPTOR.tensor, (set) => {
      set(TENSOR.dataType, TYPE.dataType, Int32Array.of(DATA_TYPE[type]));
      set(TENSOR.dims, TYPE.int64, BigInt64Array.from(dims, BigInt));
      set(TENSOR.strides, TYPE.int64, BigInt64Array.from(strides, BigInt));
      set(TENSOR.uid, TYPE.int64, BigInt64Array.of(BigInt(uid)));
      set(TENSOR.alignment, TYPE.int64, BigInt64Array.of(BigInt(ALIGNMENT)));
      if (virtual) set(TENSOR.virtual, TYPE.boolean, Uint8Array.of(1));
      if (byValue) set(TENSOR.byValue, TYPE.boolean, Uint8Array.of(1));
      if (ragged !== undefined) set(TENSOR.ragged, TYPE.descriptor, BigUint64Array.of(known.get(ragged)!));
    });
  }

  private operation(op: GraphOp, tensors: ReadonlyMap<number, Handle>): Handle {
    const { kind } = op;
    const link = (set: Setter, attribute: number, uid: number | undefined): void => {
      if (uid !== undefined) set(attribute, TYPE.descriptor, BigUint64Array.of(tensors.get(uid)!));
    };
    if (kind === "reshape") {
      return this.make(DESCRIPTOR.reshapeOp, (set) => {
        link(set, RESHAPE_OP.x, op.x);
        link(set, RESHAPE_OP.y, op.y);
      });
    }
    if (kind === "matmul") {
      const sums = this.make(DESCRIPTOR.matmul, (set) => set(MATMUL_TYPE, TYPE.dataType, Int32Array.of(DATA_TYPE.f32)));
      return this.make(DESCRIPTOR.matmulOp, (set) => {
        for (const side of ["a", "b", "c", "m", "n", "k"] as const) link(set, MATMUL_OP[side], op[side]);
        set(MATMUL_OP.descriptor, TYPE.descriptor, BigUint64Array.of(sums));
      });
    }
    if (kind === "reduction") {
      const how = this.make(DESCRIPTOR.reduction, (set) => {
        set(REDUCTION.mode, TYPE.reductionMode, Int32Array.of(REDUCTION_MODE[op.mode]));
        set(REDUCTION.mathType, TYPE.dataType, Int32Array.of(DATA_TYPE.f32));
      });
      return this.make(DESCRIPTOR.reductionOp, (set) => {
        link(set, REDUCTION_OP.x, op.x);
        link(set, REDUCTION_OP.y, op.y);
        set(REDUCTION_OP.descriptor, TYPE.descriptor, BigUint64Array.of(how));
      });
    }
    const how = this.make(DESCRIPTOR.pointwise, (set) => {
      set(POINTWISE.mode, TYPE.pointwiseMode, Int32Array.of(POINTWISE_MODE[op.mode]));
      set(POINTWISE.mathType, TYPE.dataType, Int32Array.of(DATA_TYPE[op.type]));
      if (op.axis !== undefined) set(POINTWISE.axis, TYPE.int64, BigInt64Array.of(BigInt(op.axis)));
    });
    return this.make(DESCRIPTOR.pointwiseOp, (set) => {
      set(POINTWISE_OP.descriptor, TYPE.descriptor, BigUint64Array.of(how));
      for (const side of ["x", "b", "t", "y"] as const) link(set, POINTWISE_OP[side], op[side]);
    });
  }

  /** Engines that may support a graph, what is thought the fastest first. */
  private configs(graph: Handle): Handle[] {
    const heuristics = this.make(DESCRIPTOR.heuristics, (set) => {
      set(HEURISTICS.graph, TYPE.descriptor, BigUint64Array.of(graph));
      set(HEURISTICS.mode, TYPE.heuristicMode, Int32Array.of(HEURISTIC_MODE_A));
    });
    const configs = BigUint64Array.from({ length: MOST_CONFIGS }, () => this.create(DESCRIPTOR.engineConfig));
    this.descriptors.push(...configs);
    const found = new BigInt64Array(1);
    this.call("get", heuristics, HEURISTICS.results, TYPE.descriptor, MOST_CONFIGS, found, configs);
    return [...configs.subarray(0, Math.min(MOST_CONFIGS, Number(found[0])))];
  }

  private finished(tensors: readonly GraphTensor[], fill: (set: Setter) => void): CudnnPlan {
    const descriptor = this.make(DESCRIPTOR.plan, (set) => {
      set(PLAN.handle, TYPE.handle, BigUint64Array.of(this.handle));
      fill(set);
    });
    const bytes = new BigInt64Array(1);
    this.call("get", descriptor, PLAN.workspace, TYPE.int64, 1, new BigInt64Array(1), bytes);
    const uids = tensors.filter((tensor) => !tensor.virtual).map(({ uid }) => uid);
    return { descriptor, workspaceBytes: Number(bytes[0]), uids };
  }

  /** A finalized descriptor, kept until this is disposed: those made from it refer to it. */
  private make(kind: number, fill: (set: Setter) => void): Handle {
    const descriptor = this.create(kind);
    this.descriptors.push(descriptor);
    fill(this.setter(descriptor));
    this.call("finalize", descriptor);
    return descriptor;
  }

  private create(kind: number): Handle {
    const cell = new BigUint64Array(1);
    this.call("descriptorCreate", kind, cell);
    return cell[0]!;
  }

  private setter(descriptor: Handle): Setter {
    return (attribute, type, values) => this.call("set", descriptor, attribute, type, values.length, values);
  }

  private call(name: string, ...args: (number | bigint | ArrayBufferView | null)[]): void {
    const status = this.calls[name]!(...args);
    if (status === 0) return;
    const text = new Uint8Array(1024);
    this.calls.lastError!(text, text.length);
    const reason = Buffer.from(text).toString("utf8").replace(/\0.*$/s, "").trim();
    throw new CudaError(
      `cuDNN ${this.version}: ${name} failed with status ${status}${reason && `: ${reason}`}`,
      status,
    );
  }
}

type Setter = (attribute: number, type: number, values: ArrayBufferView & { readonly length: number }) => void;

/** f32 numbers in host memory that stays where it is: what graphs take by value. */
export class HostNumbers {
  private readonly addresses = new Map<number, bigint>();
  private readonly memory: unknown[] = [];

  address(value: number): bigint {
    let address = this.addresses.get(value);
    if (address === undefined) {
      const memory = koffi.alloc("float", 1) as unknown;
      new Float32Array(koffi.view(memory, 4))[0] = value;
      this.memory.push(memory);
      address = BigInt(koffi.address(memory));
      this.addresses.set(value, address);
    }
    return address;
  }
}
