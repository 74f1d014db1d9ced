import type { Node, Value } from "../../graph/graph.ts";
import { GraphError } from "../../graph/types.ts";
import type { CopyQueue } from "./copies.ts";
import { cudnnAttention } from "./cudnn-attention.ts";
import type { Command, CudaDevice } from "./device.ts";
import type { DevicePointer } from "./driver.ts";
import { LOWERINGS } from "./lower.ts";
import type { Packed } from "./lower-cudnn.ts";
import { lowerUpdates } from "./lower-updates.ts";
import type { Lowering } from "./lowering.ts";
import { CudaTensor } from "./tensor.ts";

const ALIGNMENT = 256;
export const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** A piece of a program that enqueues itself. */
export interface Work {
  readonly run: Command;
  /** The same in every run, so that a CUDA graph may hold it. */
  readonly fixed: boolean;
}

/** What launches need to know of the program they are part of. */
export interface Surroundings {
  readonly device: CudaDevice;
  readonly copies: CopyQueue;
  /** Whether the program says how long each copy may run beside other work. */
  readonly overlaps: boolean;
  address(value: Value): DevicePointer;
  /** How many of an input's numbers are not negative in this run. */
  countOf(labels: Value): number;
  /** How this run's tokens fall into sequences, where that is known and matters. */
  readonly packed: Packed | null;
}

/** The work of a node, with addresses as they are now. */
export function emit(node: Node, workspace: DevicePointer, around: Surroundings): Work[] {
  const works: Work[] = [];
  lower(node, emitting(works, workspace, around));
  return works;
}

/** The work of updates that can run in any order (see updatesFrom). */
export function emitUpdates(nodes: readonly Node[], around: Surroundings): Work[] {
  const works: Work[] = [];
  lowerUpdates(nodes, emitting(works, 0, around));
  return works;
}

function emitting(works: Work[], workspace: DevicePointer, around: Surroundings): Lowering {
  const { device, copies, address } = around;
  const { driver } = device;
  const attention = around.packed && cudnnAttention(device);
  let used = 0;
  let push = (run: Command): unknown => works.push({ run, fixed: true });
  const between = (node: Node): [DevicePointer, DevicePointer, number] => {
    const [from, to] = [node.inputs[0]!, node.outputs[0]!];
    return [address(to), address(from), from.bytes];
  };
  return {
    multiprocessors: device.info.multiprocessors,
    computeCapability: device.info.computeCapability,
    fp8: device.fp8,
    address: (value) => (value ? address(value) : 0),
    tensor: cudaTensor,
    scratch(bytes) {
      const at = workspace + used;
      used += aligned(bytes);
      return at;
    },
    scoped(body) {
      const before = used;
      body();
      used = before;
    },
    launch: (launch) => push(device.prepare(launch)),
    product: (product, at) => push(device.product(product, at)),
    copy: (target, source, bytes) => push(() => device.copy(target, source, bytes)),
    clear: (target, bytes) => push(() => device.clear(target, bytes)),
    sized(labels, step, body) {
      const [outer, before] = [push, used];
      const known = new Map<number, Command[]>();
      const commandsFor = (size: number): Command[] => {
        let commands = known.get(size);
        if (!commands) {
          const made: Command[] = [];
          push = (run) => made.push(run);
          used = before;
          try {
            body(size);
          } finally {
            push = outer;
          }
          commands = made;
          known.set(size, commands);
        }
        return commands;
      };
      // Kernels for the most there can be are on their way to be compiled with all others; those for fewer are mostly the same.
      commandsFor(Math.ceil(labels.shape[0]! / step) * step);
      works.push({
        fixed: false,
        run: () => {
          for (const command of commandsFor(Math.ceil(around.countOf(labels) / step) * step)) command();
        },
      });
    },
    offload(node) {
      const [to, from, bytes] = between(node);
      const copy = (stream: bigint): void => driver.call("cuMemcpyDtoHAsync", to, from, bytes, stream);
      push(() => copies.start(node.outputs[0]!, copy, around.overlaps));
    },
    fetch(node) {
      const [to, from, bytes] = between(node);
      const copy = (stream: bigint): void => driver.call("cuMemcpyHtoDAsync", to, from, bytes, stream);
      push(() => copies.start(node.outputs[0]!, copy, around.overlaps));
    },
    wait: (node) => push(() => copies.wait(node.inputs[0]!)),
    cudnn: attention && { attention, packed: around.packed, enqueue: push },
  };
}

/** Bytes of workspace a node's launches use. */
export function workspaceOf(device: CudaDevice, node: Node): number {
  let [bytes, most] = [0, 0];
  const nothing = (): void => undefined;
  const attention = cudnnAttention(device);
  lower(node, {
    multiprocessors: device.info.multiprocessors,
    computeCapability: device.info.computeCapability,
    fp8: device.fp8,
    address: () => 0,
    tensor: cudaTensor,
    scratch(more) {
      const at = bytes;
      bytes += aligned(more);
      most = Math.max(most, bytes);
      return at;
    },
    scoped(body) {
      const before = bytes;
      body();
      bytes = before;
    },
    launch: nothing,
    product: nothing,
    copy: nothing,
    clear: nothing,
    sized: (labels, step, body) => body(Math.ceil(labels.shape[0]! / step) * step),
    offload: nothing,
    fetch: nothing,
    wait: nothing,
    cudnn: attention && { attention, packed: "any", enqueue: nothing },
  });
  return most;
}

/** Throws a GraphError when the backend cannot run a node. */
export function checkKnown(node: Node): void {
  if (!node.op.view && !LOWERINGS[node.op.name]) {
    throw new GraphError(`the CUDA backend has no kernel for ${node.op.name} (in ${node.scope})`);
  }
}

function lower(node: Node, to: Lowering): void {
  if (node.op.view) return;
  checkKnown(node);
  LOWERINGS[node.op.name]!(node, to);
}

export function cudaTensor(value: Value): CudaTensor {
  if (value.tensor instanceof CudaTensor) return value.tensor;
  throw new GraphError(`${value} is not a tensor of the CUDA backend`);
}
