import assert from "node:assert/strict";
import { after, test } from "node:test";
import { differentiate } from "../../graph/autodiff.ts";
import { Graph } from "../../graph/graph.ts";
import { plan } from "../../graph/plan.ts";
import type { DType } from "../../graph/types.ts";
import { loadModel } from "../../models/load/load.ts";
import { add } from "../../ops/add.ts";
import { cast } from "../../ops/cast.ts";
import { constantOp, mul } from "../../ops/elementwise.ts";
import { linear, matmul } from "../../ops/matmul.ts";
import { sum } from "../../ops/reduce.ts";
import { EMBEDDED_MODEL } from "../../quickstart/quickstart.ts";
import { randomFloats, relativeError } from "../../testing/kernels.ts";
import { CudaBackend } from "./backend.ts";
import { CollectingBackend } from "./collect.test.support.ts";
import { e4m3, multiplyTransposed, roundToBf16, throughE4m3, transposed } from "./fp8.test.support.ts";
import { gpu, skip as noGpu } from "./gpu.test.support.ts";
import { SketchCudaBackend } from "./sketch.ts";
import { cudaStatus } from "./status.ts";
import type { CudaTensor } from "./tensor.ts";

const capability = cudaStatus().devices[0]?.computeCapability ?? 0;
const skip = noGpu || (capability < 89 ? "no e4m3 on this card" : false);
const backends: CudaBackend[] = [];
after(() => {
  for (const backend of backends) backend.dispose();
});

const [M, K, N, R] = [1024, 256, 384, 16];
const bytes = (x: Float32Array): Uint8Array => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);

/** Two layers that share x, with LoRA, a bias on one and a residual on the other; values and gradients. */
async function run(backend: CudaBackend, storage: DType): Promise<Record<string, Float32Array>> {
  const shapes = { x: [M, K], a: [R, K], b: [N, R], bias: [N], residual: [M, N], w: [M, N] } as const;
  const host = Object.fromEntries(
    Object.entries(shapes).map(([name, shape], i) => [name, randomFloats(shape[0] * (shape[1] ?? 1), 20 + i)]),
  );
  const tensors = [0, 1].map((i) => {
    const tensor = backend.createTensor(`w${i}`, storage, [N, K], { role: "weight", doubleQuant: true });
    const values = bytes(randomFloats(N * K, 7 + i));
    if (storage !== "bf16") backend.quantize(tensor, "f32", (to, at) => to.set(values.subarray(at, at + to.length)));
    else tensor.write(Uint8Array.from({ length: 2 * N * K }, (_, j) => values[4 * (j >> 1) + 2 + (j & 1)]!));
    return tensor;
  });
  const graph = new Graph();
  const inputs = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [name, graph.input(name, "f32", [...shape])]),
  ) as Record<keyof typeof shapes, ReturnType<Graph["input"]>>;
  const x = cast(inputs.x, "bf16");
  const [first, second] = tensors.map((tensor) => graph.use(tensor));
  const low = linear(x, inputs.a);
  const adapted = matmul(low, inputs.b, {
    transB: true,
    alpha: 0.5,
    acc: matmul(x, first!, { transB: true, bias: inputs.bias }),
  });
  const other = matmul(x, second!, { transB: true, acc: cast(inputs.residual, "bf16") });
  const y = cast(add(adapted, other), "f32");
  graph.output("y", y);
  const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const targets = (["x", "a", "b"] as const).map((name) => ({ value: inputs[name] }));
  differentiate(graph, sum(mul(y, inputs.w)), targets, one).forEach((gradient, i) => {
    graph.output(["dx", "da", "db"][i]!, gradient!);
  });
  const executable = backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
  const result = await executable.execute(host);
  assert.deepEqual(await executable.execute(host), result, "a second run gives the same bits");
  executable.dispose();
  for (const tensor of tensors) tensor.dispose();
  return result;
}

for (const storage of ["nf4", "int8", "bf16"] as const) {
  test(`products of ${storage} weights in e4m3 are bf16's but for its rounding (CUDA)`, { skip }, async () => {
    const fp8 = new CudaBackend({ computeDtype: "bf16", fp8: true });
    backends.push(fp8);
    const want = await run(gpu("bf16"), storage);
    const got = await run(fp8, storage);
    for (const name of ["y", "dx", "da", "db"]) {
      const error = relativeError(got[name]!, want[name]!);
      assert.ok(error <= 0.06, `${name}: relative error ${error}`);
      // Three bits of mantissa: where nothing is lost, nothing was multiplied in 8 bits.
      if (name === "y" || name === "dx") assert.ok(error > 1e-3, `${name}: relative error ${error}`);
    }
  });
}

test("the host's e4m3 rounds to nearest, ties to even, and saturates", () => {
  const cases = [
    [1, 1],
    [1.0625, 1],
    [1.1875, 1.25],
    [-3.3, -3.25],
    [0.999, 1],
    [300, 288],
    [304, 320],
    [470, 448],
    [0.013, 0.013671875],
    [2 ** -10, 0],
    [-3 * 2 ** -10, -(2 ** -8)],
  ] as const;
  for (const [x, want] of cases) assert.equal(e4m3(x), want, `${x}`);
});

test("a weight that is to be precise is not multiplied in e4m3, others are", async () => {
  const backend = new CollectingBackend("bf16", 90, true);
  const inputs = [false, true].map((precise) => {
    const tensor = backend.createTensor("w", "bf16", [N, K], { role: "weight", precise });
    const graph = new Graph();
    const x = cast(graph.input("x", "f32", [M, K]), "bf16");
    graph.output("y", matmul(x, graph.use(tensor), { transB: true }));
    backend.products.clear();
    backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
    return [...backend.products.values()].map(({ input }) => input);
  });
  assert.deepEqual(inputs, [["e4m3"], ["bf16"]]);
});

test("the first and the last layer of a loaded model are to be precise", async () => {
  using model = await loadModel({ path: EMBEDDED_MODEL, backend: new SketchCudaBackend({ computeDtype: "bf16" }) });
  const precise = [...model.parameters.values()]
    .filter((tensor) => (tensor as CudaTensor).precise)
    .map(({ name }) => Number(/layers\.(\d+)/.exec(name)?.[1]));
  assert.deepEqual([...new Set(precise)], [0, model.config.layers - 1]);
});

test("a layer's output and its input's gradient are those of row-wise e4m3 on the host (CUDA)", { skip }, async () => {
  const backend = new CudaBackend({ computeDtype: "bf16", fp8: true });
  backends.push(backend);
  // Rows of unlike sizes, one of them zero: each has a scale of its own.
  const rowsOf = (m: number, k: number, seed: number): Float32Array =>
    roundToBf16(randomFloats(m * k, seed).map((v, i) => v * (Math.floor(i / k) % 13) ** 2));
  const [x, w, dy] = [rowsOf(M, K, 31), rowsOf(N, K, 32), rowsOf(M, N, 33)];
  const tensor = backend.createTensor("w", "bf16", [N, K], { role: "weight" });
  const values = bytes(w);
  tensor.write(Uint8Array.from({ length: 2 * N * K }, (_, j) => values[4 * (j >> 1) + 2 + (j & 1)]!));
  const graph = new Graph();
  const inputs = { x: graph.input("x", "f32", [M, K]), dy: graph.input("dy", "f32", [M, N]) };
  const y = cast(matmul(cast(inputs.x, "bf16"), graph.use(tensor), { transB: true }), "f32");
  graph.output("y", y);
  const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const [dx] = differentiate(graph, sum(mul(y, inputs.dy)), [{ value: inputs.x }], one);
  graph.output("dx", dx!);
  const executable = backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
  const got = await executable.execute({ x, dy });
  executable.dispose();
  tensor.dispose();

  const some = 96;
  const head = (matrix: Float32Array, cols: number): Float32Array => matrix.subarray(0, some * cols);
  const [x8, w8, dy8] = [throughE4m3(head(x, K), K), throughE4m3(w, K), throughE4m3(head(dy, N), N)];
  const once = throughE4m3(w, w.length);
  for (const [name, cols, want, unrounded] of [
    ["y", N, multiplyTransposed(x8, w8, K), multiplyTransposed(head(x, K), w, K)],
    ["dx", K, multiplyTransposed(dy8, transposed(once, K), N), multiplyTransposed(head(dy, N), transposed(w, K), N)],
  ] as const) {
    const [error, lost] = [relativeError(head(got[name]!, cols), want), relativeError(unrounded, want)];
    // What is left is bf16's rounding of the result and, forward, sums with fewer bits.
    assert.ok(error <= 6e-3, `${name}: relative error ${error}; e4m3's own is ${lost}`);
    assert.ok(lost > 2 * 6e-3, `${name}: e4m3 loses ${lost}, too little to tell`);
  }
});
