import type { Backend, DeviceTensor, Executable } from "../backends/backend.ts";
import { Graph } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { matmul } from "../ops/matmul.ts";
import type { Matrix } from "./linear-algebra/matrix.ts";
import type { Products } from "./linear-algebra/svd.ts";
import { writeFloats } from "./weights.ts";

/** Products with matrices on a backend, in f32. Memory and programs are kept by shape; one matrix of a shape at a time. */
export class ProductRunner {
  private readonly backend: Backend;
  private readonly tensors = new Map<string, DeviceTensor>();
  private readonly programs = new Map<string, Executable>();

  constructor(backend: Backend) {
    this.backend = backend;
  }

  /** Takes the place of the last matrix of this shape. */
  load(rows: number, cols: number, values: Float32Array): Products {
    const key = `${rows},${cols}`;
    let tensor = this.tensors.get(key);
    if (!tensor) {
      tensor = this.backend.createTensor(`matrix ${key}`, "f32", [rows, cols], { role: "constant" });
      this.tensors.set(key, tensor);
    }
    writeFloats(tensor, values);
    const matrix = tensor;
    return {
      rows,
      cols,
      times: (x) => this.run(matrix, x, false),
      transposedTimes: (y) => this.run(matrix, y, true),
    };
  }

  dispose(): void {
    for (const program of this.programs.values()) program.dispose();
    for (const tensor of this.tensors.values()) tensor.dispose();
  }

  private async run(matrix: DeviceTensor, x: Matrix, transA: boolean): Promise<Matrix> {
    const key = [...matrix.shape, x.cols, transA].join();
    let program = this.programs.get(key);
    if (!program) {
      const graph = new Graph();
      const right = graph.input("x", "f32", [x.rows, x.cols]);
      graph.output("y", matmul(graph.use(matrix), right, { transA }));
      const { workspaceOf, rates } = this.backend;
      program = this.backend.compile(plan(graph, { workspaceOf, rates, name: "product with a weight" }));
      this.programs.set(key, program);
    }
    const { y } = await program.execute({ x: Float32Array.from(x.data) });
    return { rows: matrix.shape[transA ? 1 : 0]!, cols: x.cols, data: Float64Array.from(y!) };
  }
}
