import type { DeviceTensor } from "../backends/backend.ts";
import type { DoraTensors } from "../models/adapter.ts";
import type { CausalLM } from "../models/model.ts";
import type { LoraTarget } from "./targets.ts";
import type { UpdateRunner, WeightUpdate } from "./update.ts";
import { openWeight, PIECE, type ReadNumbers, writeFloats } from "./weights.ts";

type Vectors = Pick<LoraTarget, "kind" | "shape">;

/**
 * Squared lengths of the vectors of a weight that DoRA has a magnitude for, in float64: the rows of a linear module's
 * [out, in], the columns of an embedding's table [vocab, hidden].
 */
export function squaredLengths(vectors: Vectors, numbers: ReadNumbers): Float64Array {
  const [rows, cols] = vectors.shape;
  const squares = emptySquares(vectors);
  const step = Math.max(1, Math.floor(PIECE / cols));
  for (let at = 0; at < rows; at += step) {
    addSquares(squares, vectors, at, numbers(at * cols, Math.min(step, rows - at) * cols));
  }
  return squares;
}

/** The same of W + s·B·A. */
export async function updatedSquares(
  vectors: Vectors,
  numbers: ReadNumbers,
  update: WeightUpdate,
  runner: UpdateRunner,
): Promise<Float64Array> {
  const cols = vectors.shape[1];
  const squares = emptySquares(vectors);
  let at = 0;
  for await (const added of runner.rows(update)) {
    const piece = numbers(at, added.length);
    addSquares(
      squares,
      vectors,
      at / cols,
      piece.map((value, i) => value + added[i]!),
    );
    at += added.length;
  }
  return squares;
}

/** Multiplies whole rows of a weight, from row `at` on, by its vectors' factors. */
export function scaleVectors(
  { kind, shape: [, cols] }: Vectors,
  at: number,
  piece: Float32Array,
  factors: Float64Array,
) {
  for (let i = 0; i < piece.length; i++) {
    piece[i]! *= factors[kind === "linear" ? at + Math.floor(i / cols) : i % cols]!;
  }
}

const emptySquares = ({ kind, shape: [rows, cols] }: Vectors) => new Float64Array(kind === "linear" ? rows : cols);

function addSquares(squares: Float64Array, { kind, shape: [, cols] }: Vectors, at: number, piece: Float32Array): void {
  const linear = kind === "linear";
  for (let i = 0; i < piece.length; i += cols) {
    let total = 0;
    for (let col = 0; col < cols; col++) {
      const square = piece[i + col]! * piece[i + col]!;
      if (linear) total += square;
      else squares[col]! += square;
    }
    if (linear) squares[at + i / cols]! += total;
  }
}

/** The frozen tensors of a DoRA adapter: squared lengths of every target's weight, and an identity for every rank. */
export class DoraConstants {
  private readonly squares = new Map<string, DeviceTensor>();
  private readonly identities = new Map<number, DeviceTensor>();

  /** Reads every target's weight once. `weightOf` gives the one its module uses. */
  static async create(
    { backend }: CausalLM,
    targets: readonly LoraTarget[],
    weightOf: (target: LoraTarget) => DeviceTensor,
  ): Promise<DoraConstants> {
    const constants = new DoraConstants();
    const fill = (name: string, shape: readonly number[], values: Float32Array): DeviceTensor => {
      const tensor = backend.createTensor(name, "f32", shape, { role: "constant" });
      writeFloats(tensor, values);
      return tensor;
    };
    try {
      for (const target of targets) {
        const { path, r } = target;
        const squares = Float32Array.from(squaredLengths(target, await openWeight(backend, weightOf(target))));
        constants.squares.set(path, fill(`${path}.squares`, [squares.length], squares));
        if (constants.identities.has(r)) continue;
        const identity = Float32Array.from({ length: r * r }, (_, i) => (i % (r + 1) === 0 ? 1 : 0));
        constants.identities.set(r, fill(`identity.${r}`, [r, r], identity));
      }
      return constants;
    } catch (error) {
      constants.dispose();
      throw error;
    }
  }

  /** What a module's update has beside A and B. */
  tensors({ path, r }: LoraTarget, magnitude: DeviceTensor): DoraTensors {
    return { magnitude, squares: this.squares.get(path)!, identity: this.identities.get(r)! };
  }

  dispose(): void {
    for (const tensor of [...this.squares.values(), ...this.identities.values()]) tensor.dispose();
  }
}
