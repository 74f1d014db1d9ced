import type { Backend } from "../../backends/backend.ts";
import { f32ToBf16 } from "../../formats/float16.ts";
import { Graph } from "../../graph/graph.ts";
import { plan } from "../../graph/plan.ts";
import { linear, matmul } from "../../ops/matmul.ts";
import { dequantizeNf4Reference, expandAbsmax, nestAbsmax, quantizeNf4Reference } from "../../quant/nf4.ts";
import { Rng } from "../../util/rng.ts";

const [TOKENS, INPUTS, OUTPUTS, RANK] = [4, 128, 64, 8];
const SCALE = 2;

/**
 * Runs the product that QLoRA consists of, y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with W in 4 bits (double-quantised NF4) or bf16, as the
 * backend does in training, and gives its largest error against loops in float64, relative to the largest result.
 */
export async function productError(backend: Backend, dtype: "nf4" | "bf16"): Promise<number> {
  const rng = new Rng(3407);
  const random = (count: number): Float32Array => Float32Array.from({ length: count }, () => rng.normal());
  const [w, x, a, b] = [
    random(OUTPUTS * INPUTS),
    random(TOKENS * INPUTS),
    random(RANK * INPUTS),
    random(OUTPUTS * RANK),
  ];
  const tensors = [
    backend.createTensor("check.W", dtype, [OUTPUTS, INPUTS], { role: "weight", doubleQuant: true }),
    backend.createTensor("check.A", "f32", [RANK, INPUTS], { role: "adapter" }),
    backend.createTensor("check.B", "f32", [OUTPUTS, RANK], { role: "adapter" }),
  ] as const;
  try {
    const stored = dtype === "nf4" ? decodedNf4(w) : roundedToBf16(w);
    if (dtype === "nf4") backend.quantize(tensors[0], "f32", (target, at) => target.set(bytesOf(w, at, target.length)));
    else tensors[0].write(Uint8Array.from(bytesOf(bf16(w))));
    tensors[1].write(bytesOf(a));
    tensors[2].write(bytesOf(b));
    const got = await run(backend, tensors, x);
    return largestError(got, reference(x, stored, a, b));
  } finally {
    for (const tensor of tensors) tensor.dispose();
  }
}

async function run(
  backend: Backend,
  [w, a, b]: readonly [
    weight: Parameters<Graph["use"]>[0],
    a: Parameters<Graph["use"]>[0],
    b: Parameters<Graph["use"]>[0],
  ],
  x: Float32Array,
): Promise<Float32Array> {
  const graph = new Graph();
  const input = graph.input("x", "f32", [TOKENS, INPUTS]);
  const low = linear(input, graph.use(a));
  graph.output("y", matmul(low, graph.use(b), { transB: true, alpha: SCALE, acc: linear(input, graph.use(w)) }));
  const { workspaceOf, rates } = backend;
  const executable = backend.compile(plan(graph, { workspaceOf, rates, name: "check" }));
  try {
    return (await executable.execute({ x })).y!;
  } finally {
    executable.dispose();
  }
}

function reference(x: Float32Array, w: Float32Array, a: Float32Array, b: Float32Array): Float64Array {
  const dot = (p: Float32Array, row: number, q: Float32Array, column: number, depth: number): number => {
    let sum = 0;
    for (let k = 0; k < depth; k++) sum += p[row * depth + k]! * q[column * depth + k]!;
    return sum;
  };
  return Float64Array.from({ length: TOKENS * OUTPUTS }, (_, i) => {
    const [token, output] = [Math.floor(i / OUTPUTS), i % OUTPUTS];
    let low = 0;
    for (let r = 0; r < RANK; r++) low += dot(x, token, a, r, INPUTS) * b[output * RANK + r]!;
    return dot(x, token, w, output, INPUTS) + SCALE * low;
  });
}

function largestError(got: Float32Array, want: Float64Array): number {
  let [error, largest] = [0, 0];
  want.forEach((value, i) => {
    // NaN must not pass for small.
    const difference = Math.abs(got[i]! - value);
    error = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(error, difference);
    largest = Math.max(largest, Math.abs(value));
  });
  return error / largest;
}

function decodedNf4(w: Float32Array): Float32Array {
  const { data, absmax } = quantizeNf4Reference(w);
  return dequantizeNf4Reference({ data, absmax: expandAbsmax(nestAbsmax(absmax)) }, w.length);
}

function bf16(w: Float32Array): Uint16Array {
  const halves = new Uint16Array(w.length);
  f32ToBf16(w, halves);
  return halves;
}

/** Each number as a bf16 has it: the upper half of an f32's bits. */
function roundedToBf16(w: Float32Array): Float32Array {
  return new Float32Array(Uint32Array.from(bf16(w), (half) => half << 16).buffer);
}

function bytesOf(array: Float32Array | Uint16Array, at = 0, length = array.byteLength): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset + at, length);
}
