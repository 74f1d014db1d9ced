import type { Backend, Executable } from "../backends/backend.ts";
import { Graph } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import type { LoraPair } from "../models/adapter.ts";
import { matmul } from "../ops/matmul.ts";
import type { LoraTarget } from "./targets.ts";
import { readWeight } from "./weights.ts";

/** Elements of an update computed at a time. */
const PIECE = 2 ** 21;

/** What an adapter adds to a weight: scale·left·right, with left [rows, r] and right [r, cols]. */
export interface WeightUpdate {
  readonly left: Float32Array;
  readonly right: Float32Array;
  readonly rows: number;
  readonly cols: number;
  readonly r: number;
  readonly scale: number;
}

/**
 * The update of a module's weight: s·B·A for a linear module [out, in] (AdaLoRA: s·B·diag(E)·A), s·Aᵀ·Bᵀ for an embedding
 * [vocab, hidden].
 */
export async function weightUpdate(backend: Backend, target: LoraTarget, pair: LoraPair): Promise<WeightUpdate> {
  const [rows, cols] = target.shape;
  const { r, scale } = target;
  const a = await readWeight(backend, pair.a);
  if (pair.e) {
    const e = await readWeight(backend, pair.e);
    for (let i = 0; i < a.length; i++) a[i]! *= e[Math.floor(i / cols)]!;
  }
  const b = await readWeight(backend, pair.b);
  if (target.kind === "linear") return { left: b, right: a, rows, cols, r, scale };
  return { left: transpose(a, r, rows), right: transpose(b, cols, r), rows, cols, r, scale };
}

/** Computes updates on a backend, some rows at a time; programs are kept by shape. */
export class UpdateRunner {
  private readonly backend: Backend;
  private readonly programs = new Map<string, Executable>();

  constructor(backend: Backend) {
    this.backend = backend;
  }

  /** Successive rows of an update, [n · cols] each; a piece is valid until the next. */
  async *rows({ left, right, rows, cols, r, scale }: WeightUpdate): AsyncGenerator<Float32Array> {
    const step = Math.max(1, Math.min(rows, Math.floor(PIECE / cols)));
    const program = this.program(step, cols, r, scale);
    const part = new Float32Array(step * r);
    for (let at = 0; at < rows; at += step) {
      const count = Math.min(step, rows - at);
      // The last piece may be short: rows beyond it are left as they were, and their results not used.
      part.set(left.subarray(at * r, (at + count) * r));
      const { update } = await program.execute({ left: part, right });
      yield update!.subarray(0, count * cols);
    }
  }

  dispose(): void {
    for (const program of this.programs.values()) program.dispose();
    this.programs.clear();
  }

  private program(rows: number, cols: number, r: number, scale: number): Executable {
    const key = [rows, cols, r, scale].join();
    let found = this.programs.get(key);
    if (!found) {
      const graph = new Graph();
      const left = graph.input("left", "f32", [rows, r]);
      const right = graph.input("right", "f32", [r, cols]);
      graph.output("update", matmul(left, right, { alpha: scale }));
      const { workspaceOf, rates } = this.backend;
      found = this.backend.compile(plan(graph, { workspaceOf, rates, name: "LoRA update" }));
      this.programs.set(key, found);
    }
    return found;
  }
}

function transpose(values: Float32Array, rows: number, cols: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) out[j * rows + i] = values[i * cols + j]!;
  return out;
}
