import { bf16ToF32, f16ToF32 } from "../../formats/float16.ts";
import type { Value } from "../../graph/graph.ts";
import type { Program } from "../../graph/program.ts";
import { type Executable, type ExecuteOptions, type HostArray, inputBytes } from "../backend.ts";
import type { Arena } from "./arena.ts";
import { CopyQueue } from "./copies.ts";
import type { CudaDevice } from "./device.ts";
import type { DevicePointer, Handle } from "./driver.ts";
import { aligned, checkKnown, cudaTensor, emit, type Work } from "./emit.ts";
import { CudaError } from "./errors.ts";
import { type Recording, record } from "./recording.ts";

export { workspaceOf } from "./emit.ts";

/** Runs before a program is captured as graphs: the first one loads kernels, which capture does not allow everywhere. */
const EAGER_RUNS = 1;

/**
 * A program as launches with fixed addresses. The first run enqueues them one by one; from the second on they are CUDA
 * graphs, with what depends on the run's inputs between them. Prepared again when the arena has moved, not otherwise.
 */
export class CudaExecutable implements Executable {
  readonly program: Program;
  private readonly device: CudaDevice;
  private readonly arena: Arena;
  private readonly poison: boolean;
  private readonly copies: CopyQueue;
  private generation = -1;
  private steps: Work[][] = [];
  private runs = 0;
  private recording: Recording | null = null;
  /** Inputs whose numbers are counted, and how many are not negative in this run. */
  private readonly counts = new Map<Value, number>();

  constructor(device: CudaDevice, arena: Arena, program: Program, poison: boolean) {
    this.device = device;
    this.arena = arena;
    this.program = program;
    this.poison = poison;
    for (const node of program.steps) checkKnown(node);
    this.copies = new CopyQueue(device);
    arena.reserve(program);
  }

  execute(
    inputs: Readonly<Record<string, HostArray>>,
    options: ExecuteOptions = {},
  ): Promise<Record<string, Float32Array>> {
    this.arena.reserve(this.program);
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
    this.forget();
    this.copies.dispose();
  }

  private forget(): void {
    this.recording?.dispose();
    this.recording = null;
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
      if (this.counts.has(value)) this.counts.set(value, notNegative(bytes));
    }
  }

  private run(): void {
    if (!this.recording && this.runs++ >= EAGER_RUNS) {
      this.recording = record(this.device, this.steps.flat(), this.copies);
    }
    if (this.recording) {
      this.recording.run();
      return;
    }
    for (const works of this.steps) for (const { run } of works) run();
    this.copies.join();
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
    for (const works of this.steps) {
      for (const { run } of works) run();
      mark();
    }
    this.copies.join();
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
    this.forget();
    this.runs = 0;
    const { device, arena, program, copies } = this;
    const around = {
      device,
      copies,
      address: (value: Value) => this.address(value),
      countOf: (labels: Value) => this.counts.get(labels) ?? labels.shape[0]!,
    };
    for (const value of program.inputs.values()) if (value.dtype === "i32") this.counts.set(value, 0);
    this.steps = program.steps.map((node, step) => {
      const workspace = program.workspace(node);
      const works = emit(node, workspace === null ? 0 : arena.base + workspace, around);
      if (this.poison) works.push(...this.poisoned(step));
      return works;
    });
    this.generation = arena.generation;
  }

  /** Fills what is free after a step with NaNs. */
  private poisoned(step: number): Work[] {
    const { program, arena, device } = this;
    return program.liveness.blocks
      .filter(({ end, role, pool }) => end === step && role !== "output" && role !== "input" && pool !== "host")
      .map((block) => {
        const address = arena.base + program.offsetOf(block);
        return { fixed: true, run: () => device.clear(address, block.bytes, 255) };
      });
  }
}

/** How many of these i32 are not negative. */
function notNegative(bytes: Uint8Array): number {
  const numbers = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const values = new Int32Array(numbers.buffer, numbers.byteOffset, numbers.byteLength / 4);
  let count = 0;
  for (const value of values) if (value >= 0) count++;
  return count;
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
