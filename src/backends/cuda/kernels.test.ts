import assert from "node:assert/strict";
import { test } from "node:test";
import { differentiate } from "../../graph/autodiff.ts";
import { Graph, type Value } from "../../graph/graph.ts";
import { plan } from "../../graph/plan.ts";
import type { FloatDType } from "../../graph/types.ts";
import { attention } from "../../ops/attention.ts";
import { cast } from "../../ops/cast.ts";
import { dropout } from "../../ops/dropout.ts";
import { constantOp, mul } from "../../ops/elementwise.ts";
import { linear, matmul } from "../../ops/matmul.ts";
import { sum } from "../../ops/reduce.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { dequantizeInt8, quantizeInt8 } from "../../quant/int8.ts";
import { dequantizeNf4Reference, expandAbsmax, nestAbsmax, quantizeNf4Reference } from "../../quant/nf4.ts";
import { randomFloats, relativeError } from "../../testing/kernels.ts";
import type { Backend, HostArray } from "../backend.ts";
import { openCpuBackend } from "../cpu/backend.ts";
import { gpu, half, skip, skipBf16 } from "./gpu.test.support.ts";

const bytes = (x: Float32Array): Uint8Array => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);

test("NF4: bytes equal bitsandbytes' CPU path, with whole and partial blocks (CUDA)", { skip }, async () => {
  const backend = gpu("f32");
  for (const [rows, cols, blockSize] of [
    [64, 128, 64],
    [3, 37, 64],
    [5, 320, 128],
    [1, 4099, 4096],
  ] as const) {
    const n = rows * cols;
    const values = randomFloats(n, n);
    const tensor = backend.createTensor("w", "nf4", [rows, cols], { role: "weight", blockSize });
    backend.quantize(tensor, "f32", (target, offset) =>
      target.set(bytes(values).subarray(offset, offset + target.length)),
    );
    const expected = quantizeNf4Reference(values, blockSize);
    assert.deepEqual(await tensor.read(), expected.data);
    assert.deepEqual(new Float32Array((await tensor.read("absmax")).buffer), expected.absmax);
    assert.deepEqual(await backend.dequantize(tensor), dequantizeNf4Reference(expected, n, blockSize));
    tensor.dispose();
  }
});

test("double-quantised NF4 is bitsandbytes' (CUDA)", { skip }, async () => {
  const [rows, cols] = [300, 512];
  const values = randomFloats(rows * cols, 5);
  const { data, absmax } = quantizeNf4Reference(values);
  const nested = nestAbsmax(absmax);
  const backend = gpu("f32");
  const tensor = backend.createTensor("w", "nf4", [rows, cols], { role: "weight", doubleQuant: true });
  backend.quantize(tensor, "f32", (target, offset) =>
    target.set(bytes(values).subarray(offset, offset + target.length)),
  );
  assert.deepEqual(await tensor.read(), data);
  assert.deepEqual(await tensor.read("absmax"), nested.codes);
  const expected = dequantizeNf4Reference({ data, absmax: expandAbsmax(nested) }, rows * cols);
  // expandAbsmax rounds after the product and after the sum, and so does the kernel.
  assert.deepEqual(await backend.dequantize(tensor), expected);
  tensor.dispose();
});

test("8-bit weights are the CPU's, and a product with one is that with its numbers (CUDA)", { skip }, async () => {
  for (const [rows, cols] of [
    [48, 320],
    [7, 37],
  ] as const) {
    const values = randomFloats(rows * cols, 8);
    const { codes, scales } = quantizeInt8(values);
    const decoded = dequantizeInt8(codes, scales);
    // Numbers that are decoded first are rounded to the type of the activations; others need not be.
    for (const [dtype, tolerance] of [
      ["f32", 1e-6],
      ["bf16", 1e-2],
      ["f16", 2e-3],
    ] as const) {
      if (dtype === "bf16" && skipBf16) continue;
      const backend = gpu(dtype);
      const tensor = backend.createTensor("w", "int8", [rows, cols], { role: "weight" });
      const source = bytes(values);
      backend.quantize(tensor, "f32", (target, at) => target.set(source.subarray(at, at + target.length)));
      assert.deepEqual(await backend.dequantize(tensor), decoded);
      const inputs = { x: randomFloats(5 * cols, 9), dense: decoded };
      const { quantised, plain } = await compute(backend, inputs, (graph) => {
        const x = cast(graph.input("x", "f32", [5, cols]), dtype);
        graph.output("quantised", linear(x, graph.use(tensor)));
        graph.output("plain", linear(x, graph.input("dense", "f32", [rows, cols])));
      });
      const error = relativeError(quantised!, plain!);
      assert.ok(error <= tolerance, `${dtype}: relative error ${error}`);
      tensor.dispose();
    }
  }
});

/** Outputs of a traced function on a backend. */
async function compute(
  backend: Backend,
  inputs: Record<string, HostArray>,
  build: (graph: Graph) => void,
): Promise<Record<string, Float32Array>> {
  const graph = new Graph();
  build(graph);
  const program = plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates });
  const executable = backend.compile(program);
  const first = await executable.execute(inputs);
  const second = await executable.execute(inputs);
  for (const [name, values] of Object.entries(first)) assert.deepEqual(second[name], values, `${name} of a second run`);
  executable.dispose();
  return first;
}

test("dropout draws the CPU's masks (CUDA)", { skip }, async () => {
  using cpu = await openCpuBackend({ threads: 1 });
  const inputs = { x: randomFloats(1003, 1), seed: Uint32Array.of(12345, 678) };
  const results = await Promise.all(
    [cpu, gpu("f32")].map((backend: Backend) =>
      compute(backend, inputs, (graph) => {
        const x = graph.input("x", "f32", [1003]);
        graph.output("y", dropout(x, graph.input("seed", "u32", [2]), 0.3, 7));
      }),
    ),
  );
  assert.ok(relativeError(results[1]!.y!, results[0]!.y!) <= 1e-6);
});

test("8-bit AdamW keeps the CPU's states, and so bitsandbytes' (CUDA)", { skip }, async () => {
  using cpu = await openCpuBackend({ threads: 1 });
  const n = 4096 + 4 * 77;
  const states = await Promise.all(
    [cpu, gpu("f32")].map(async (backend: Backend) => {
      const tensor = backend.createTensor("p", "f32", [4, n / 4], { role: "adapter" });
      tensor.write(bytes(randomFloats(n, 3)));
      const trainable = { name: "p", tensor, decay: true };
      const options = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01, eightBit: true };
      const optimizer = new Optimizer(backend, [trainable], options);
      for (let step = 0; step < 5; step++) {
        optimizer.gradient(trainable).write(bytes(randomFloats(n, 50 + step)));
        await optimizer.update(1e-2, 0);
      }
      const read = [...optimizer.stateTensors().values()].map((state) => state.read());
      return { p: new Float32Array((await tensor.read()).buffer), states: await Promise.all(read) };
    }),
  );
  const [want, got] = states;
  assert.ok(relativeError(got!.p, want!.p) <= 1e-6, `parameters: ${relativeError(got!.p, want!.p)}`);
  want!.states.forEach((state, i) => {
    if (i % 2 === 1) {
      // Scales: the CPU's kernels may lack the fused multiply-add that the GPU's have.
      const [a, b] = [got!.states[i]!, state].map((raw) => new Float32Array(raw.buffer));
      assert.ok(relativeError(a!, b!) <= 1e-6, `state ${i}: relative error ${relativeError(a!, b!)}`);
      return;
    }
    const different = state.reduce((count, byte, at) => count + (byte === got!.states[i]![at] ? 0 : 1), 0);
    assert.ok(different <= state.length / 1000, `state ${i}: ${different} of ${state.length} bytes differ`);
  });
});

const LENGTHS = [200, 1, 300, 64, 65, 394];
const TOKENS = LENGTHS.reduce((a, b) => a + b, 0);
const seqStart = new Int32Array(TOKENS);
const seqEnd = new Int32Array(TOKENS);
LENGTHS.reduce((start, length) => {
  seqStart.fill(start, start, start + length);
  seqEnd.fill(start + length, start, start + length);
  return start + length;
}, 0);

async function attend(
  backend: Backend,
  dtype: FloatDType,
  shape: { heads: number; kvHeads: number; headDim: number },
  options: object,
): Promise<Record<string, Float32Array>> {
  const { heads, kvHeads, headDim } = shape;
  const widths = { q: heads * headDim, k: kvHeads * headDim, v: kvHeads * headDim, w: heads * headDim };
  const data = Object.fromEntries(
    Object.entries(widths).map(([name, width], i) => [name, randomFloats(TOKENS * width, 10 + i)]),
  );
  return compute(backend, { ...data, seqStart, seqEnd }, (graph) => {
    const inputs = Object.fromEntries(
      Object.entries(widths).map(([name, width]) => [name, graph.input(name, "f32", [TOKENS, width])]),
    ) as Record<string, Value>;
    const [q, k, v] = ["q", "k", "v"].map((name) => cast(inputs[name]!, dtype));
    const sequences = {
      seqStart: graph.input("seqStart", "i32", [TOKENS]),
      seqEnd: graph.input("seqEnd", "i32", [TOKENS]),
    };
    const o = cast(attention(q!, k!, v!, sequences, { ...shape, ...options }), "f32");
    const loss = sum(mul(o, inputs.w!));
    graph.output("o", o);
    const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
    const targets = ["q", "k", "v"].map((name) => ({ value: inputs[name]! }));
    differentiate(graph, loss, targets, one).forEach((gradient, i) => graph.output(`d${"qkv"[i]}`, gradient!));
  });
}

for (const headDim of [64, 96, 128, 256]) {
  for (const [label, options] of Object.entries({
    causal: {},
    "window, soft-cap": { window: 100, softcap: 20, scale: 0.3 },
    "both directions": { causal: false },
  })) {
    test(`attention over ${TOKENS} packed tokens, heads of ${headDim}, ${label} (CUDA)`, { skip }, async () => {
      using cpu = await openCpuBackend({ threads: 4 });
      const shape = { heads: 4, kvHeads: 2, headDim };
      const want = await attend(cpu, "f32", shape, options);
      for (const [dtype, tolerance] of [
        ["f32", 2e-5],
        [half, 2e-2],
      ] as const) {
        const got = await attend(gpu(dtype), dtype, shape, options);
        for (const [name, values] of Object.entries(want)) {
          const error = relativeError(got[name]!, values);
          assert.ok(error <= tolerance, `${name} in ${dtype}: relative error ${error}`);
        }
      }
    });
  }
}

test("products of the shapes layers have, in bf16 (CUDA)", { skip: skipBf16 }, async () => {
  using cpu = await openCpuBackend({ threads: 4 });
  const [m, n, k] = [512, 384, 256];
  const inputs = { x: randomFloats(m * k, 1), w: randomFloats(n * k, 2) };
  const run = (backend: Backend, dtype: FloatDType) =>
    compute(backend, inputs, (graph) => {
      const [x, w] = [graph.input("x", "f32", [m, k]), graph.input("w", "f32", [n, k])];
      graph.output("y", linear(cast(x, dtype), w));
    });
  const error = relativeError((await run(gpu("bf16"), "bf16")).y!, (await run(cpu, "f32")).y!);
  assert.ok(error <= 1e-2, `relative error ${error}`);
});

test("a LoRA update as more depth of the product equals two products (CUDA, bf16)", { skip: skipBf16 }, async () => {
  using cpu = await openCpuBackend({ threads: 4 });
  const [m, k, n, r] = [1024, 64, 192, 12];
  for (const transB of [true, false]) {
    const inputs = {
      x: randomFloats(m * k, 1),
      a: randomFloats(r * k, 2),
      b: randomFloats(n * r, 3),
      acc: randomFloats(m * n, 4),
    };
    const run = async (backend: Backend, dtype: FloatDType) => {
      const weight = backend.createTensor("w", "nf4", transB ? [n, k] : [k, n], { role: "weight", doubleQuant: true });
      const values = randomFloats(n * k, 5);
      backend.quantize(weight, "f32", (target, offset) =>
        target.set(bytes(values).subarray(offset, offset + target.length)),
      );
      const result = await compute(backend, inputs, (graph) => {
        const x = cast(graph.input("x", "f32", [m, k]), dtype);
        const acc = cast(graph.input("acc", "f32", [m, n]), dtype);
        const low = linear(x, graph.input("a", "f32", [r, k]));
        const b = graph.input("b", "f32", transB ? [n, r] : [r, n]);
        const y = matmul(x, graph.use(weight), { transB, acc, alpha: 0.5 });
        graph.output("y", cast(matmul(low, b, { transB, alpha: 1.5, acc: y }), "f32"));
      });
      weight.dispose();
      return result.y!;
    };
    const error = relativeError(await run(gpu("bf16"), "bf16"), await run(cpu, "f32"));
    assert.ok(error <= 1e-2, `transB ${transB}: relative error ${error}`);
  }
});
