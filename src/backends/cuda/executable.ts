import { bf16ToF32, f16ToF32 } from "../../formats/float16.ts";
import type { Value } from "../../graph/graph.ts";
import type { Program } from "../../graph/program.ts";
import { type Executable, type ExecuteOptions, type HostArray, inputBytes } from "../backend.ts";
import type { Arena } from "./arena.ts";
import { CopyQueue } from "./copies.ts";
import { type CudnnAttention, cudnnAttention } from "./cudnn-attention.ts";
import type { CudaDevice } from "./device.ts";
import type { DevicePointer, Handle } from "./driver.ts";
import { aligned, checkKnown, cudaTensor, emit, emitUpdates, type Work } from "./emit.ts";
import { CudaError, CudaOutOfMemoryError } from "./errors.ts";
import { type Packed, wantsCudnn } from "./lower-cudnn.ts";
import { updatesFrom } from "./lower-updates.ts";
import { packingOf } from "./packing.ts";
import { type Recording, record } from "./recording.ts";

export { workspaceOf } from "./emit.ts";

/** Runs before a program is captured as graphs: the first one loads kernels, which capture does not allow everywhere. */
const EAGER_RUNS = 1;
/** Classes of packings that a program's work is kept for. */
const MOST_VARIANTS = 4;

/** A program's work for runs of one class of packings. */
interface Variant {
  readonly steps: Work[][];
  runs: number;
  recording: Recording | null;
}

/**
 * A program as launches with fixed addresses. The first run enqueues them one by one; from the second on they are CUDA
 * graphs, with what depends on the run's inputs between them. Prepared again when the arena has moved, and for each class
 * of packings where attention depends on it.
 */
export class CudaExecutable implements Executable {
  readonly program: Program;
  private readonly device: CudaDevice;
  private readonly arena: Arena;
  private readonly poison: boolean;
  private readonly copies: CopyQueue;
  private generation = -1;
  /** By class, the latest last. */
  private readonly variants = new Map<string, Variant>();
  private readonly cudnn: CudnnAttention | null;
  /** Inputs whose numbers are counted, and how many are not negative in this run. */
  private readonly counts = new Map<Value, number>();

  private sortedInputs: [string, Value][] | null = null;

  constructor(device: CudaDevice, arena: Arena, program: Program, poison: boolean) {
    this.device = device;
    this.arena = arena;
    this.program = program;
    this.poison = poison;
    for (const node of program.steps) checkKnown(node);
    this.copies = new CopyQueue(device);
    this.cudnn = wantsCudnn(program) ? cudnnAttention(device) : null;
    arena.reserve(program);
  }

  execute(
    inputs: Readonly<Record<string, HostArray>>,
    options: ExecuteOptions = {},
  ): Promise<Record<string, Float32Array>> {
    return this.arena.exclusive(async () => {
      options.signal?.throwIfAborted();
      const packed = this.packed(inputs);
      const variant = this.prepare(packed);
      const compiling = this.device.kernelsReady();
      if (compiling) await compiling;
      const names = options.read ?? [...this.program.outputs.keys()];
      const outputs = names.map((name) => {
        const value = this.program.outputs.get(name);
        if (!value) throw new Error(`program "${this.program.name}" has no output "${name}"`);
        return [name, value] as const;
      });
      this.uploadInputs(inputs);
      if (packed) this.cudnn!.arrays.upload(packed.packing);
      if (options.timings) await this.runTimed(variant, options.timings);
      else this.run(variant);
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
    }, this.program);
  }

  dispose(): void {
    this.forget();
    this.copies.dispose();
  }

  private forget(): void {
    for (const { recording } of this.variants.values()) recording?.dispose();
    this.variants.clear();
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
    const copies: { target: DevicePointer; source: bigint; bytes: number }[] = [];
    for (const [name, value] of this.inputsByAddress()) {
      const bytes = inputBytes(name, value, inputs[name]);
      this.arena.inputs.bytes.set(bytes, at);
      const last = copies.at(-1);
      const target = this.address(value);
      const source = this.arena.inputs.address + BigInt(at);
      // Neighbours go together: a short step's inputs are many and small.
      if (last && source - last.source === BigInt(target - last.target))
        last.bytes = target - last.target + bytes.byteLength;
      else copies.push({ target, source, bytes: bytes.byteLength });
      at += aligned(bytes.byteLength);
      if (this.counts.has(value)) this.counts.set(value, notNegative(bytes));
    }
    for (const { target, source, bytes } of copies) {
      this.device.driver.call("cuMemcpyHtoDAsync", target, source, bytes, this.device.stream);
    }
  }

  private inputsByAddress(): [string, Value][] {
    const offset = (value: Value): number => {
      const at = this.program.locate(value);
      return at.kind === "tensor" ? 0 : at.offset;
    };
    this.sortedInputs ??= [...this.program.inputs].sort(([, a], [, b]) => offset(a) - offset(b));
    return this.sortedInputs;
  }

  private run(variant: Variant): void {
    if (!variant.recording && variant.runs++ >= EAGER_RUNS) {
      try {
        variant.recording = record(this.device, variant.steps.flat(), this.copies);
      } catch (error) {
        // Graphs take some memory of the card: without it launches are enqueued one by one, in every run.
        if (!(error instanceof CudaOutOfMemoryError)) throw error;
        variant.runs = Number.NEGATIVE_INFINITY;
      }
    }
    if (variant.recording) {
      variant.recording.run();
      return;
    }
    for (const works of variant.steps) for (const { run } of works) run();
    this.copies.join();
  }

  /** One by one, with an event between any two steps. */
  private async runTimed({ steps }: Variant, timings: Float64Array): Promise<void> {
    const { driver, stream } = this.device;
    const events: Handle[] = [];
    const mark = (): void => {
      const event = driver.create("cuEventCreate", 0);
      driver.call("cuEventRecord", event, stream);
      events.push(event);
    };
    mark();
    for (const works of steps) {
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

  /** How this run's tokens fall into sequences; null where that is not known or nothing depends on it. */
  private packed(inputs: Readonly<Record<string, HostArray>>): Packed | null {
    const [seqStart, seqEnd] = [this.program.inputs.get("seqStart"), this.program.inputs.get("seqEnd")];
    const { seqStart: from, seqEnd: to } = inputs;
    if (!this.cudnn || !seqStart || !seqEnd || !(from instanceof Int32Array && to instanceof Int32Array)) return null;
    if (from.length !== seqStart.shape[0] || to.length !== from.length) return null;
    const packing = packingOf(from, to);
    return packing && { seqStart, seqEnd, packing };
  }

  private prepare(packed: Packed | null): Variant {
    const { device, arena, program, copies, variants } = this;
    if (this.generation !== arena.generation) this.forget();
    this.generation = arena.generation;
    const key = packed?.packing.key ?? "";
    const known = variants.get(key);
    if (known) {
      variants.delete(key);
      variants.set(key, known);
      return known;
    }
    const around = {
      device,
      copies,
      overlaps: program.steps.some(({ op }) => op.name === "copy_wait"),
      packed,
      address: (value: Value) => this.address(value),
      countOf: (labels: Value) => this.counts.get(labels) ?? labels.shape[0]!,
    };
    for (const value of program.inputs.values()) if (value.dtype === "i32") this.counts.set(value, 0);
    let joined = 0;
    const steps = program.steps.map((node, step) => {
      const works: Work[] = [];
      if (step >= joined) {
        joined = Math.max(step + 1, updatesFrom(program.steps, step));
        const workspace = program.workspace(node);
        if (joined > step + 1) works.push(...emitUpdates(program.steps.slice(step, joined), around));
        else works.push(...emit(node, workspace === null ? 0 : arena.base + workspace, around));
      }
      if (this.poison) works.push(...this.poisoned(step));
      return works;
    });
    const variant: Variant = { steps, runs: 0, recording: null };
    variants.set(key, variant);
    if (variants.size > MOST_VARIANTS) {
      const [oldest, { recording }] = variants.entries().next().value!;
      recording?.dispose();
      variants.delete(oldest);
    }
    return variant;
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
  if (value.dtype === "i32") return Float32Array.from(new Int32Array(bytes.buffer));
  if (value.dtype !== "bf16" && value.dtype !== "f16") {
    throw new CudaError(`output ${value} is not an array of numbers`);
  }
  const halves = new Uint16Array(bytes.buffer);
  const floats = new Float32Array(halves.length);
  if (value.dtype === "bf16") bf16ToF32(halves, floats);
  else f16ToF32(halves, floats);
  return floats;
}
