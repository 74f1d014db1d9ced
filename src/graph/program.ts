import type { Graph, Node, Value } from "./graph.ts";
import { type Block, type Liveness, liveBytes } from "./liveness.ts";
import type { Decisions, Saved } from "./remat.ts";
import { GraphError } from "./types.ts";

interface ProgramParts {
  readonly name: string;
  readonly graph: Graph;
  readonly steps: readonly Node[];
  readonly liveness: Liveness;
  readonly arena: { offsets: ReadonlyMap<Block, number>; bytes: number };
  readonly host: { offsets: ReadonlyMap<Block, number>; bytes: number };
  readonly decisions: Decisions;
  readonly saved: readonly Saved[];
}

/** Where a value is: at an offset of a pool, or a persistent tensor. */
export type Location =
  | { readonly kind: "arena" | "host"; readonly offset: number }
  | { readonly kind: "tensor"; readonly value: Value };

/**
 * A planned step: nodes in order, every value placed. Knows no backend; one compiles it into kernel launches with fixed
 * addresses. Running it allocates nothing.
 */
export class Program {
  readonly name: string;
  readonly steps: readonly Node[];
  readonly inputs: ReadonlyMap<string, Value>;
  readonly outputs: ReadonlyMap<string, Value>;
  /** Bytes of device memory for activations, gradients, workspaces, inputs and outputs. */
  readonly arenaBytes: number;
  /** Bytes of host memory for offloaded activations. */
  readonly hostBytes: number;
  readonly liveness: Liveness;
  readonly decisions: Decisions;
  readonly saved: readonly Saved[];
  private readonly arenaOffsets: ReadonlyMap<Block, number>;
  private readonly hostOffsets: ReadonlyMap<Block, number>;

  constructor(parts: ProgramParts) {
    this.name = parts.name;
    this.steps = parts.steps;
    this.inputs = new Map(parts.graph.inputs);
    this.outputs = new Map(parts.graph.outputs);
    this.liveness = parts.liveness;
    this.decisions = parts.decisions;
    this.saved = parts.saved;
    this.arenaBytes = parts.arena.bytes;
    this.hostBytes = parts.host.bytes;
    this.arenaOffsets = parts.arena.offsets;
    this.hostOffsets = parts.host.offsets;
  }

  /** Location of a value. */
  locate(value: Value): Location {
    const tensor = value.kind === "tensor" ? value : this.liveness.contents.get(value);
    if (tensor) return { kind: "tensor", value: tensor };
    const block = this.liveness.blockOf.get(value);
    if (!block) throw new GraphError(`${value} is not part of program "${this.name}"`);
    return { kind: block.pool, offset: this.offsetOf(block) };
  }

  /** Offset of a node's workspace in the arena, or null when it has none. */
  workspace(node: Node): number | null {
    const block = this.liveness.workspaces.get(node);
    return block ? this.offsetOf(block) : null;
  }

  /** Offset of a block in its pool. */
  offsetOf(block: Block): number {
    return (block.pool === "host" ? this.hostOffsets : this.arenaOffsets).get(block)!;
  }

  /** Live bytes of the arena at each step. */
  timeline(): Float64Array {
    return liveBytes(this.liveness, this.steps.length, "arena").timeline;
  }

  /** How many saved activations are kept, recomputed and offloaded, and their bytes. */
  checkpointing(): Record<"kept" | "recomputed" | "offloaded", { count: number; bytes: number }> {
    const result = {
      kept: { count: 0, bytes: 0 },
      recomputed: { count: 0, bytes: 0 },
      offloaded: { count: 0, bytes: 0 },
    };
    for (const { node, bytes } of this.saved) {
      const { recompute, offload } = this.decisions;
      const entry = result[recompute.has(node) ? "recomputed" : offload.has(node) ? "offloaded" : "kept"];
      entry.count++;
      entry.bytes += bytes;
    }
    return result;
  }

  /** The whole program as text: one line a step with where each result goes and what is live. */
  print(): string {
    const live = this.timeline();
    const place = (value: Value): string => {
      const at = this.locate(value);
      return at.kind === "tensor" ? `@${at.value.name}` : `${at.kind === "host" ? "host" : ""}+${hex(at.offset)}`;
    };
    const lines = [
      `program ${this.name}: ${this.steps.length} steps, arena ${megabytes(this.arenaBytes)} MiB, host ${megabytes(this.hostBytes)} MiB`,
      ...[...this.inputs.values()].map((value) => `input  ${value} ${place(value)}`),
    ];
    let scope = "";
    this.steps.forEach((node, i) => {
      if (node.scope !== scope) {
        scope = node.scope;
        lines.push(`# ${scope}`);
      }
      const outputs = node.outputs.map((value) => `${value} ${place(value)}`).join(", ");
      const inputs = node.inputs.map((value) => (value ? `%${value.name}` : "-")).join(", ");
      const attrs = Object.entries(node.attrs).map(([key, value]) => ` ${key}=${value}`);
      const again = node.recomputeOf ? " (recomputed)" : "";
      lines.push(
        `${String(i).padStart(5)} ${outputs} = ${node.op.name}(${inputs})${attrs.join("")}${again}  [${megabytes(live[i]!)}]`,
      );
    });
    for (const [name, value] of this.outputs) lines.push(`output ${name} = ${value} ${place(value)}`);
    return lines.join("\n");
  }
}

const hex = (n: number): string => `0x${n.toString(16)}`;
const megabytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(2);
