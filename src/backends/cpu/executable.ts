import type { Node, Value } from "../../graph/graph.ts";
import type { Program } from "../../graph/program.ts";
import { GraphError } from "../../graph/types.ts";
import { type Executable, type ExecuteOptions, type HostArray, inputBytes } from "../backend.ts";
import { LOWERINGS } from "./lower.ts";
import type { Lowering } from "./lowering.ts";
import { type Address, type CpuRuntime, encodeInstruction, type KernelArgument } from "./runtime.ts";
import { CpuTensor } from "./tensor.ts";

/** The memory that all programs of a backend share, one after another. */
export interface Arena {
  /** Addresses of the arena and of the offloading pool; both change when either grows. */
  readonly base: Address;
  readonly hostBase: Address;
  readonly generation: number;
  reserve(bytes: number, hostBytes: number): void;
  /** Run `body` when nothing else uses the arena. */
  exclusive<T>(body: () => Promise<T>): Promise<T>;
}

/** A program as words in the runtime's memory. Encoded again when the arena has moved, not otherwise. */
export class CpuExecutable implements Executable {
  readonly program: Program;
  private readonly runtime: CpuRuntime;
  private readonly arena: Arena;
  private readonly poison: boolean;
  private code: Address = 0;
  private words = 0;
  private generation = -1;
  /** Instructions of each step, to add their times up. */
  private instructions: number[] = [];

  constructor(runtime: CpuRuntime, arena: Arena, program: Program, poison: boolean) {
    this.runtime = runtime;
    this.arena = arena;
    this.program = program;
    this.poison = poison;
    arena.reserve(program.arenaBytes, program.hostBytes);
  }

  execute(
    inputs: Readonly<Record<string, HostArray>>,
    options: ExecuteOptions = {},
  ): Promise<Record<string, Float32Array>> {
    return this.arena.exclusive(async () => {
      this.prepare();
      for (const name of Object.keys(inputs)) {
        if (!this.program.inputs.has(name)) {
          throw new Error(
            `program "${this.program.name}" has no input "${name}"; it has ${[...this.program.inputs.keys()].join(", ")}`,
          );
        }
      }
      for (const [name, value] of this.program.inputs) {
        const bytes = inputBytes(name, value, inputs[name]);
        this.runtime.bytes(this.address(value), bytes.byteLength).set(bytes);
      }
      const timings = options.timings ? new Float64Array(this.instructions.length) : undefined;
      await this.runtime.run(this.code, this.words, { signal: options.signal, timings });
      if (timings && options.timings) this.sumTimings(timings, options.timings);
      const results: Record<string, Float32Array> = {};
      for (const name of options.read ?? this.program.outputs.keys()) {
        const value = this.program.outputs.get(name);
        if (!value) throw new Error(`program "${this.program.name}" has no output "${name}"`);
        const { buffer } = this.runtime.bytes(this.address(value), value.bytes).slice();
        results[name] = value.dtype === "i32" ? Float32Array.from(new Int32Array(buffer)) : new Float32Array(buffer);
      }
      return results;
    });
  }

  dispose(): void {
    if (this.code) this.runtime.free(this.code);
    this.code = 0;
    this.generation = -1;
  }

  private address(value: Value): Address {
    const at = this.program.locate(value);
    if (at.kind === "tensor") return cpuTensor(at.value).address();
    return (at.kind === "host" ? this.arena.hostBase : this.arena.base) + at.offset;
  }

  private prepare(): void {
    if (this.generation === this.arena.generation) return;
    if (this.code) this.runtime.free(this.code);
    const code: BigUint64Array[] = [];
    this.instructions = [];
    const emit = (step: number, kernel: string, args: readonly KernelArgument[], workspace = 0): void => {
      code.push(encodeInstruction(this.runtime, kernel, args, workspace));
      this.instructions.push(step);
    };
    this.program.steps.forEach((node, step) => {
      const workspace = this.program.workspace(node);
      lower(node, {
        address: (value) => (value ? this.address(value) : 0),
        weight: (value) => weightWords(value, value.kind === "tensor" ? 0 : this.address(value)),
        emit: (kernel, args) => emit(step, kernel, args, workspace === null ? 0 : this.arena.base + workspace),
      });
      if (this.poison) {
        for (const block of this.program.liveness.blocks) {
          if (block.end !== step || block.role === "output" || block.role === "input") continue;
          const base = block.pool === "host" ? this.arena.hostBase : this.arena.base;
          emit(step, "fill", [block.bytes, 255, base + this.program.offsetOf(block)]);
        }
      }
    });
    this.words = code.reduce((sum, words) => sum + words.length, 0);
    this.code = this.runtime.alloc(Math.max(8, this.words * 8));
    let at = this.code;
    for (const words of code) {
      this.runtime.bytes(at, words.byteLength).set(new Uint8Array(words.buffer));
      at += words.byteLength;
    }
    this.generation = this.arena.generation;
  }

  private sumTimings(timings: Float64Array, perStep: Float64Array): void {
    perStep.fill(0);
    timings.forEach((nanoseconds, i) => {
      const step = this.instructions[i]!;
      if (step < perStep.length) perStep[step]! += nanoseconds;
    });
  }
}

/** Bytes of workspace a node's kernels ask for. */
export function workspaceOf(runtime: CpuRuntime, node: Node): number {
  let bytes = 0;
  if (node.op.view) return 0;
  lower(node, {
    address: () => 0,
    weight: (value) => weightWords(value, 0),
    emit: (kernel, args) => {
      bytes = Math.max(bytes, runtime.workspace(kernel, args));
    },
  });
  return bytes;
}

function lower(node: Node, to: Lowering): void {
  if (node.op.view) return;
  const halves = node.outputs.find((value) => value.kind === "computed" && value.dtype.endsWith("f16"));
  if (halves) throw new GraphError(`the CPU backend computes in f32, and ${halves} (in ${node.scope}) is not`);
  const lowering = LOWERINGS[node.op.name];
  if (!lowering) throw new GraphError(`the CPU backend has no kernel for ${node.op.name} (in ${node.scope})`);
  lowering(node, to);
}

function weightWords(value: Value, address: Address): readonly KernelArgument[] {
  if (value.kind === "tensor") return cpuTensor(value).weightWords();
  if (value.dtype !== "f32") throw new GraphError(`${value} is computed and must be f32 to be a matrix`);
  return [0, address, 0, 0, 0, 0, 64];
}

function cpuTensor(value: Value): CpuTensor {
  if (value.tensor instanceof CpuTensor) return value.tensor;
  throw new GraphError(`${value} is not a tensor of the CPU backend`);
}
