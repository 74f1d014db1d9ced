import assert from "node:assert/strict";
import { test } from "node:test";
import { differentiate } from "../../graph/autodiff.ts";
import { Graph, type Value } from "../../graph/graph.ts";
import { plan } from "../../graph/plan.ts";
import type { FloatDType } from "../../graph/types.ts";
import { cast } from "../../ops/cast.ts";
import { constantOp, mul } from "../../ops/elementwise.ts";
import { linear, matmul } from "../../ops/matmul.ts";
import { groupTrainingProducts } from "../../ops/product-groups.ts";
import { sum } from "../../ops/reduce.ts";
import { randomFloats, relativeError } from "../../testing/kernels.ts";
import type { Backend, HostArray } from "../backend.ts";
import { openCpuBackend } from "../cpu/backend.ts";
import { gpu, half, skip, skipBf16 } from "./gpu.test.support.ts";

const [K, R] = [256, 16];

interface Layers {
  readonly rows: number;
  readonly widths: readonly number[];
}

/** Outputs and gradients of 4-bit layers with low-rank updates that share their input. */
async function run(
  backend: Backend,
  dtype: FloatDType,
  { rows, widths }: Layers,
): Promise<Record<string, Float32Array>> {
  const graph = new Graph();
  const host: Record<string, HostArray> = {};
  const input = (name: string, shape: number[]): Value => {
    host[name] = randomFloats(shape[0]! * shape[1]!, 1 + graph.inputs.size);
    return graph.input(name, "f32", shape);
  };
  const [a, b] = [input("a", [rows, K]), input("b", [rows, K])];
  const x = mul(cast(a, dtype), cast(b, dtype));
  const targets = [a];
  const names = ["da"];
  let loss: Value | null = null;
  const weights = widths.map((n, i) => {
    const weight = backend.createTensor(`w${i}`, "nf4", [n, K], { role: "weight", doubleQuant: true });
    const values = randomFloats(n * K, 50 + i);
    const bytes = new Uint8Array(values.buffer);
    backend.quantize(weight, "f32", (target, offset) => target.set(bytes.subarray(offset, offset + target.length)));
    const [A, B] = [input(`A${i}`, [R, K]), input(`B${i}`, [n, R])];
    targets.push(A, B);
    names.push(`dA${i}`, `dB${i}`);
    const y = matmul(linear(x, A), B, { transB: true, alpha: 0.7 + i, acc: linear(x, graph.use(weight)) });
    graph.output(`y${i}`, cast(y, "f32"));
    const part = sum(mul(cast(y, "f32"), input(`u${i}`, [rows, n])));
    loss = loss ? matmul(loss, input("one", [1, 1]), { acc: part }) : part;
    return weight;
  });
  const seed = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const found = differentiate(
    graph,
    loss!,
    targets.map((value) => ({ value })),
    seed,
  );
  found.forEach((gradient, i) => graph.output(names[i]!, gradient!));
  host.one = Float32Array.of(1);
  if (backend.groupsProducts) groupTrainingProducts(graph);
  const executable = backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
  const first = await executable.execute(host);
  assert.deepEqual(await executable.execute(host), first);
  executable.dispose();
  for (const weight of weights) weight.dispose();
  return first;
}

for (const [label, layers] of Object.entries({
  "three layers, many rows": { rows: 1100, widths: [256, 64, 72] },
  "two layers, wider than their input": { rows: 1024, widths: [576, 576] },
  "three layers, few rows": { rows: 100, widths: [64, 256, 64] },
  // As on cards whose blocks have 99 KiB of shared memory.
  "three layers, many rows, little shared memory": { rows: 1100, widths: [256, 64, 72], capability: 89 },
} satisfies Record<string, Layers & { capability?: number }>)) {
  // Kernels for 8.9 are none for a card before 8.0.
  test(`products that share an operand: ${label} (CUDA)`, {
    skip: "capability" in layers ? skipBf16 : skip,
  }, async () => {
    using cpu = await openCpuBackend({ threads: 2 });
    const want = await run(cpu, "f32", layers);
    for (const [dtype, tolerance] of [
      ["f32", 2e-5],
      [half, 2e-2],
    ] as const) {
      const backend = gpu(dtype);
      backend.poison = true;
      const { info } = backend.device;
      const capability = "capability" in layers ? layers.capability : info.computeCapability;
      Object.assign(backend.device, { info: { ...info, computeCapability: capability } });
      const got = await run(backend, dtype, layers);
      Object.assign(backend.device, { info });
      backend.poison = false;
      for (const [name, values] of Object.entries(want)) {
        const error = relativeError(got[name]!, values);
        assert.ok(error <= tolerance, `${name} in ${dtype}: relative error ${error}`);
      }
    }
  });
}
