import { bf16ToF32, f16ToF32 } from "../../formats/float16.ts";
import type { Node, Value } from "../../graph/graph.ts";
import type { Program } from "../../graph/program.ts";
import { GraphError } from "../../graph/types.ts";
import { type Executable, type ExecuteOptions, type HostArray, inputBytes } from "../backend.ts";
import type { Arena } from "./arena.ts";
import type { Command, CudaDevice } from "./device.ts";
import type { DevicePointer, Handle } from "./driver.ts";
import { CudaError } from "./errors.ts";
import { LOWERINGS } from "./lower.ts";
import type { Lowering } from "./lowering.ts";
import { CudaTensor } from "./tensor.ts";

const ALIGNMENT = 256;
const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Runs before a program is captured as a graph: the first one loads kernels, which capture does not allow everywhere. */
const EAGER_RUNS = 1;

/**
 * A program as launches with fixed addresses. The first run enqueues them one by one; from the second on they are one CUDA
 * graph. Prepared again when the arena has moved, not otherwise.
 */
export class CudaExecutable implements Executable {
  readonly program: Program;
  private readonly device: CudaDevice;
  private readonly arena: Arena;
  private readonly poison: boolean;
  private generation = -1;
  private steps: Command[][] = [];
  private runs = 0;
  private graph: { launch: Command; dispose: () => void } | null = null;

  constructor(device: CudaDevice, arena: Arena, program: Program, poison: boolean) {
    this.device = device;
    this.arena = arena;
    this.program = program;
    this.poison = poison;
    for (const node of program.steps) checkKnown(node);
    arena.reserve(program);
  }

  execute(
    inputs: Readonly<Record<string, HostArray>>,
    options: ExecuteOptions = {},
  ): Promise<Record<string, Float32Array>> {
    return this.arena.exclusive(async () => {
      options.signal?.throwIfAborted();
      this.prepare();
      const names = options.read ?? [...this.program.outputs.keys()];
      const outputs = names.map((name) => {
        const value = this.program.outputs.get(name);
        if (!value) throw new Error(`program "${this.program.name}" has no output "${name}"`);
        return [name, value] as const;
      });
      this.uploadInputs(inputs);
      if (options.timings) await this.runTimed(options.timings);
      else this.run();
      let at = 0;
      const staged = outputs.map(([name, value]) => {
        const offset = at;
        at += aligned(value.bytes);
        const target = this.arena.outputs.address + BigInt(offset);
        this.device.driver.call("cuMemcpyDtoHAsync", target, this.address(value), value.bytes, this.device.stream);
        return [name, value, offset] as const;
      });
      await this.device.finished();
      options.signal?.throwIfAborted();
      return Object.fromEntries(
        staged.map(([name, value, offset]) => [
          name,
          toFloats(value, this.arena.outputs.bytes.slice(offset, offset + value.bytes)),
        ]),
      );
    });
  }

  dispose(): void {
    this.graph?.dispose();
    this.graph = null;
    this.steps = [];
    this.generation = -1;
  }

  private uploadInputs(inputs: Readonly<Record<string, HostArray>>): void {
    for (const name of Object.keys(inputs)) {
      if (!this.program.inputs.has(name)) {
        const known = [...this.program.inputs.keys()].join(", ");
        throw new Error(`program "${this.program.name}" has no input "${name}"; it has ${known}`);
      }
    }
    let at = 0;
    for (const [name, value] of this.program.inputs) {
      const bytes = inputBytes(name, value, inputs[name]);
      this.arena.inputs.bytes.set(bytes, at);
      const source = this.arena.inputs.address + BigInt(at);
      this.device.driver.call("cuMemcpyHtoDAsync", this.address(value), source, bytes.byteLength, this.device.stream);
      at += aligned(bytes.byteLength);
    }
  }

  private run(): void {
    if (this.graph) {
      this.graph.launch();
      return;
    }
    const enqueue = (): void => {
      for (const commands of this.steps) for (const command of commands) command();
    };
    if (this.runs++ < EAGER_RUNS) {
      enqueue();
      return;
    }
    this.graph = this.device.capture(enqueue);
    this.graph.launch();
  }

  /** One by one, with an event between any two steps. */
  private async runTimed(timings: Float64Array): Promise<void> {
    const { driver, stream } = this.device;
    const events: Handle[] = [];
    const mark = (): void => {
      const event = driver.create("cuEventCreate", 0);
      driver.call("cuEventRecord", event, stream);
      events.push(event);
    };
    mark();
    for (const commands of this.steps) {
      for (const command of commands) command();
      mark();
    }
    await this.device.finished();
    const elapsed = new Float32Array(1);
    for (let i = 0; i + 1 < events.length && i < timings.length; i++) {
      driver.call("cuEventElapsedTime", elapsed, events[i]!, events[i + 1]!);
      timings[i] = elapsed[0]! * 1e6;
    }
    for (const event of events) driver.call("cuEventDestroy", event);
  }

  private address(value: Value): DevicePointer {
    const at = this.program.locate(value);
    if (at.kind === "tensor") return cudaTensor(at.value).address();
    return (at.kind === "host" ? Number(this.arena.host.address) : this.arena.base) + at.offset;
  }

  private prepare(): void {
    if (this.generation === this.arena.generation) return;
    this.dispose();
    this.runs = 0;
    const { device, arena, program } = this;
    this.steps = program.steps.map((node, step) => {
      const commands: Command[] = [];
      const workspace = program.workspace(node);
      const base = workspace === null ? 0 : arena.base + workspace;
      lower(
        node,
        emitting(device, commands, (value) => this.address(value), base),
      );
      if (this.poison) {
        for (const block of program.liveness.blocks) {
          if (block.end !== step || block.role === "output" || block.role === "input" || block.pool === "host")
            continue;
          const address = arena.base + program.offsetOf(block);
          commands.push(() => device.clear(address, block.bytes, 255));
        }
      }
      return commands;
    });
    this.generation = arena.generation;
  }
}

function emitting(
  device: CudaDevice,
  commands: Command[],
  address: (value: Value) => DevicePointer,
  workspace: DevicePointer,
): Lowering {
  let used = 0;
  const { driver, stream } = device;
  return {
    multiprocessors: device.info.multiprocessors,
    computeCapability: device.info.computeCapability,
    address: (value) => (value ? address(value) : 0),
    tensor: cudaTensor,
    scratch(bytes) {
      const at = workspace + used;
      used += aligned(bytes);
      return at;
    },
    launch: (launch) => commands.push(device.prepare(launch)),
    product: (product, at) => commands.push(device.product(product, at)),
    copy: (target, source, bytes) => commands.push(() => device.copy(target, source, bytes)),
    clear: (target, bytes) => commands.push(() => device.clear(target, bytes)),
    offload(node) {
      const [from, to, bytes] = [address(node.inputs[0]!), address(node.outputs[0]!), node.inputs[0]!.bytes];
      commands.push(() => driver.call("cuMemcpyDtoHAsync", to, from, bytes, stream));
    },
    fetch(node) {
      const [from, to, bytes] = [address(node.inputs[0]!), address(node.outputs[0]!), node.inputs[0]!.bytes];
      commands.push(() => driver.call("cuMemcpyHtoDAsync", to, from, bytes, stream));
    },
  };
}

/** Bytes of workspace a node's launches use. */
export function workspaceOf(device: CudaDevice, node: Node): number {
  let bytes = 0;
  if (node.op.view) return 0;
  const nothing = (): void => undefined;
  lower(node, {
    multiprocessors: device.info.multiprocessors,
    computeCapability: device.info.computeCapability,
    address: () => 0,
    tensor: cudaTensor,
    scratch(more) {
      const at = bytes;
      bytes += aligned(more);
      return at;
    },
    launch: nothing,
    product: nothing,
    copy: nothing,
    clear: nothing,
    offload: nothing,
    fetch: nothing,
  });
  return bytes;
}

function checkKnown(node: Node): void {
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

function toFloats(value: Value, bytes: Uint8Array): Float32Array {
  if (value.dtype === "f32") return new Float32Array(bytes.buffer);
  if (value.dtype !== "bf16" && value.dtype !== "f16") {
    throw new CudaError(`output ${value} is not a floating-point array`);
  }
  const halves = new Uint16Array(bytes.buffer);
  const floats = new Float32Array(halves.length);
  if (value.dtype === "bf16") bf16ToF32(halves, floats);
  else f16ToF32(halves, floats);
  return floats;
}
