import assert from "node:assert/strict";
import { test } from "node:test";
import { CpuBackend } from "../backends/cpu/backend.ts";
import { f32ToBf16 } from "../formats/float16.ts";
import { Graph } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { matmul } from "../ops/matmul.ts";
import { runtimes } from "../testing/kernels.ts";
import { Rng } from "../util/rng.ts";
import { dequantizeInt8, INT8_BLOCK_SIZE, quantizeInt8 } from "./int8.ts";

function numbers(n: number, seed: number): Float32Array {
  const words = new Uint32Array(n);
  new Rng(seed).fillUint32(words);
  return Float32Array.from(words, (word) => word / 2 ** 31 - 1);
}

test("every value is within half a step of a block's scale, the largest exact", () => {
  const x = numbers(5 * INT8_BLOCK_SIZE + 7, 1).map((v, i) => v * 10 ** Math.floor(i / INT8_BLOCK_SIZE));
  const { codes, scales } = quantizeInt8(x);
  const y = dequantizeInt8(codes, scales);
  assert.equal(scales.length, 6);
  for (let block = 0; block < 6; block++) {
    const part = [...x.subarray(64 * block, 64 * block + 64)];
    const largest = Math.max(...part.map(Math.abs));
    assert.equal(scales[block], Math.fround(largest / 127));
    part.forEach((v, i) => assert.ok(Math.abs(v - y[64 * block + i]!) <= 0.5001 * scales[block]!, `${v}`));
    assert.equal(Math.max(...codes.subarray(64 * block, 64 * block + 64).map(Math.abs)), 127);
  }
});

test("ties go to even codes, zeros and their block stay zero, a negative largest is −127", () => {
  const x = new Float32Array(3 * INT8_BLOCK_SIZE);
  x.set([127, 0.5, 1.5, 2.5, -0.5, -1.5]);
  x[INT8_BLOCK_SIZE] = -3;
  const { codes, scales } = quantizeInt8(x);
  assert.deepEqual([...codes.subarray(0, 6)], [127, 0, 2, 2, 0, -2]);
  assert.deepEqual([codes[INT8_BLOCK_SIZE], scales[2]], [-127, 0]);
});

const [M, N, K] = [5, 24, 80];

test("a CPU's product with an 8-bit weight is that with the decoded one, both ways round, and so is dequantize", async () => {
  const w = numbers(N * K, 2);
  const bf16 = new Uint16Array(w.length);
  f32ToBf16(w, bf16);
  const rounded = Float32Array.from(bf16, (bits) => new Float32Array(Uint32Array.of(bits * 65536).buffer)[0]!);
  const { codes, scales } = quantizeInt8(rounded);
  const decoded = dequantizeInt8(codes, scales);
  const x = numbers(M * K, 3);
  const dy = numbers(M * N, 4);
  for (const [name, runtime] of await runtimes()) {
    const backend = new CpuBackend(runtime);
    const tensor = backend.createTensor("w", "int8", [N, K], { role: "weight" });
    assert.equal(tensor.bytes, N * K + 4 * Math.ceil((N * K) / INT8_BLOCK_SIZE));
    const source = new Uint8Array(bf16.buffer);
    backend.quantize(tensor, "bf16", (target, at) => target.set(source.subarray(at, at + target.length)));
    assert.deepEqual(await backend.dequantize(tensor), decoded, name);
    const graph = new Graph();
    const weight = graph.use(tensor);
    graph.output("y", matmul(graph.input("x", "f32", [M, K]), weight, { transB: true }));
    graph.output("dx", matmul(graph.input("dy", "f32", [M, N]), weight));
    const { workspaceOf, rates } = backend;
    const executable = backend.compile(plan(graph, { workspaceOf, rates, name: "int8" }));
    const { y, dx } = await executable.execute({ x, dy });
    for (let i = 0; i < M; i++) {
      for (let j = 0; j < N; j++) {
        let sum = 0;
        for (let k = 0; k < K; k++) sum += x[i * K + k]! * decoded[j * K + k]!;
        assert.ok(Math.abs(sum - y![i * N + j]!) < 1e-4, `${name} y ${i} ${j}`);
      }
      for (let k = 0; k < K; k++) {
        let sum = 0;
        for (let j = 0; j < N; j++) sum += dy[i * N + j]! * decoded[j * K + k]!;
        assert.ok(Math.abs(sum - dx![i * K + k]!) < 1e-4, `${name} dx ${i} ${k}`);
      }
    }
    executable.dispose();
    tensor.dispose();
  }
});
