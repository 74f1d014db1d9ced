import type { Backend, DeviceTensor } from "../backends/backend.ts";
import type { DoraTensors } from "../models/adapter.ts";
import type { CausalLM } from "../models/model.ts";
import type { AdapterTensor } from "./adapter.ts";
import type { LoraTarget } from "./targets.ts";
import { UpdateRunner, type WeightUpdate, weightUpdate } from "./update.ts";
import { openWeight, PIECE, type ReadNumbers, readWeight, writeFloats } from "./weights.ts";

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

/** What a target's module has to compute with. */
export interface DoraTarget {
  readonly target: LoraTarget;
  /** The weight its module uses. */
  readonly weight: DeviceTensor;
  readonly a: DeviceTensor;
  readonly b: DeviceTensor;
  readonly magnitude: DeviceTensor;
}

/**
 * The frozen tensors of a DoRA adapter: squared lengths of every target's weight and an identity for every rank; or, of an
 * adapter that is not trained, the factors that come of them, so that using it costs no more than a LoRA's.
 */
export class DoraConstants {
  private readonly byPath = new Map<string, DoraTensors>();
  private readonly own: DeviceTensor[] = [];
  private readonly identities = new Map<number, DeviceTensor>();

  /** Reads every target's weight once. */
  static async create(
    { backend }: CausalLM,
    targets: readonly DoraTarget[],
    { trained }: { readonly trained: boolean },
  ): Promise<DoraConstants> {
    const constants = new DoraConstants();
    const runner = new UpdateRunner(backend);
    try {
      for (const { target, weight, a, b, magnitude } of targets) {
        const { path, r, scale } = target;
        const numbers = await openWeight(backend, weight);
        if (trained) {
          const squares = constants.fill(backend, `${path}.squares`, squaredLengths(target, numbers));
          constants.byPath.set(path, { magnitude, squares, identity: constants.identity(backend, r) });
          continue;
        }
        const update = await weightUpdate(backend, target, { a, b, scale, dropout: 0 });
        const squares = await updatedSquares(target, numbers, update, runner);
        const magnitudes = await readWeight(backend, magnitude);
        const ratios = squares.map((square, i) => magnitudes[i]! / Math.sqrt(square));
        constants.byPath.set(path, { magnitude, factors: constants.fill(backend, `${path}.factors`, ratios) });
      }
      return constants;
    } catch (error) {
      constants.dispose();
      throw error;
    } finally {
      runner.dispose();
    }
  }

  /** What a module's update has beside A and B. */
  tensors({ path }: LoraTarget): DoraTensors {
    return this.byPath.get(path)!;
  }

  dispose(): void {
    for (const tensor of [...this.own, ...this.identities.values()]) tensor.dispose();
  }

  private fill(backend: Backend, name: string, values: Float64Array): DeviceTensor {
    const tensor = backend.createTensor(name, "f32", [values.length], { role: "constant" });
    this.own.push(tensor);
    writeFloats(tensor, Float32Array.from(values));
    return tensor;
  }

  private identity(backend: Backend, r: number): DeviceTensor {
    let tensor = this.identities.get(r);
    if (!tensor) {
      tensor = backend.createTensor(`identity.${r}`, "f32", [r, r], { role: "constant" });
      this.identities.set(r, tensor);
      writeFloats(
        tensor,
        Float32Array.from({ length: r * r }, (_, i) => (i % (r + 1) === 0 ? 1 : 0)),
      );
    }
    return tensor;
  }
}

/** The targets of a DoRA adapter, with its tensors. `weightOf` gives the weight that a parameter's module uses. */
export function doraTargets(
  targets: readonly LoraTarget[],
  tensors: readonly AdapterTensor[],
  weightOf: (parameter: string) => DeviceTensor,
): DoraTarget[] {
  const byTarget = new Map(targets.map((target) => [target, new Map<AdapterTensor["kind"], DeviceTensor>()]));
  for (const { target, kind, tensor } of tensors) if (target) byTarget.get(target)!.set(kind, tensor);
  return [...byTarget].map(([target, own]) => ({
    target,
    weight: weightOf(`${target.path}.weight`),
    a: own.get("A")!,
    b: own.get("B")!,
    magnitude: own.get("magnitude")!,
  }));
}
