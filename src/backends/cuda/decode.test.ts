import assert from "node:assert/strict";
import { test } from "node:test";
import { DecodingSession } from "../../generate/session.ts";
import { Graph, type Value } from "../../graph/graph.ts";
import { plan } from "../../graph/plan.ts";
import type { DType, FloatDType } from "../../graph/types.ts";
import type { LoraPair } from "../../models/adapter.ts";
import { CausalLM } from "../../models/model.ts";
import { attentionCached, kvWrite } from "../../ops/cache.ts";
import { cast } from "../../ops/cast.ts";
import { fuseDecoding } from "../../ops/fuse-decoding.ts";
import { linear, matmul } from "../../ops/matmul.ts";
import { sample } from "../../ops/sampling.ts";
import { randomFloats, relativeError } from "../../testing/kernels.ts";
import { tinyModel } from "../../testing/tiny-model.ts";
import type { Backend, DeviceTensor, HostArray } from "../backend.ts";
import { openCpuBackend } from "../cpu/backend.ts";
import { CollectingBackend } from "./collect.test.support.ts";
import { gpu, half, skip, skipBf16 } from "./gpu.test.support.ts";

/** Run a graph twice (a backend may replay the first run): the second run's outputs, equal to the first's. */
async function compute(
  backend: Backend,
  inputs: Record<string, HostArray>,
  build: (graph: Graph) => void,
): Promise<Record<string, Float32Array>> {
  const graph = new Graph();
  build(graph);
  if (backend.groupsProducts) fuseDecoding(graph);
  backend.poison = true;
  const executable = backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
  backend.poison = false;
  const first = await executable.execute(inputs);
  const second = await executable.execute(inputs);
  executable.dispose();
  assert.deepEqual(second, first);
  return second;
}

const bytes = (x: Float32Array | Uint16Array): Uint8Array => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);

/** A weight of seeded numbers: 4-bit ones in both backends alike, or f32 in the CPU's where the GPU's is bf16. */
function weight(
  backend: Backend,
  dtype: DType,
  shape: [number, number],
  seed: number,
  doubleQuant: boolean,
): DeviceTensor {
  const values = randomFloats(shape[0] * shape[1], seed);
  const halves = Uint16Array.from(new Uint16Array(values.buffer).filter((_, i) => i % 2 === 1));
  if (dtype === "nf4") {
    const tensor = backend.createTensor("w", "nf4", shape, { role: "weight", doubleQuant });
    backend.quantize(tensor, "f32", (target, offset) =>
      target.set(bytes(values).subarray(offset, offset + target.length)),
    );
    return tensor;
  }
  const tensor = backend.createTensor("w", "bf16", shape, { role: "weight" });
  tensor.write(bytes(halves));
  return tensor;
}

/** Rows, depth, features of up to three weights. */
const SHAPES = [
  [1, 256, [48]],
  [1, 4096, [512, 128, 128]],
  [3, 320, [100, 16]],
  [8, 64, [32]],
  [16, 1024, [64, 80, 33]],
  [21, 576, [96]],
  [50, 2048, [128, 128]],
  // So many features that a block has several tiles, and hands over sums in turn.
  [1, 320, [4200]],
  [2, 128, [12_000, 650]],
  [12, 256, [9000, 33]],
] as const;

for (const kind of ["nf4, double quantisation", "nf4", "bf16"]) {
  const dtype = kind.startsWith("nf4") ? "nf4" : "bf16";
  for (const output of ["bf16", "f32"] as const) {
    test(`products of few rows, ${kind} weights, into ${output}, equal the CPU's (CUDA)`, {
      skip: skipBf16,
    }, async () => {
      using cpu = await openCpuBackend({ threads: 4 });
      for (const [m, k, features] of SHAPES) {
        const r = k % 3 === 0 ? 12 : 16;
        const inputs: Record<string, HostArray> = { x: randomFloats(m * k, 1) };
        features.forEach((n, i) => {
          inputs[`a${i}`] = randomFloats(r * k, 10 + i);
          inputs[`b${i}`] = randomFloats(n * r, 20 + i);
          inputs[`bias${i}`] = randomFloats(n, 30 + i).map((x) => 10 * x);
          inputs[`acc${i}`] = randomFloats(m * n, 40 + i).map((x) => 10 * x);
        });
        const run = async (backend: Backend, type: FloatDType, out: FloatDType) => {
          const weights = features.map((n, i) => weight(backend, dtype, [n, k], 50 + i, kind.includes("double")));
          const result = await compute(backend, inputs, (graph) => {
            const x = cast(graph.input("x", "f32", [m, k]), type);
            features.forEach((n, i) => {
              const acc = features.length === 1 ? cast(graph.input("acc0", "f32", [m, n]), out) : null;
              const low = linear(x, graph.input(`a${i}`, "f32", [r, k]));
              const bias = graph.input(`bias${i}`, "f32", [n]);
              const y = matmul(x, graph.use(weights[i]!), { transB: true, acc, bias, alpha: 0.5, dtype: out });
              const b = graph.input(`b${i}`, "f32", [n, r]);
              const whole = matmul(low, b, { transB: true, alpha: 0.25, acc: y, dtype: out });
              graph.output(`y${i}`, cast(whole, "f32"));
            });
          });
          for (const tensor of weights) tensor.dispose();
          return result;
        };
        // Inputs that are not used must not be given.
        for (const name of Object.keys(inputs)) {
          if (name.startsWith("acc") && (features.length > 1 || name !== "acc0")) delete inputs[name];
        }
        const [got, want] = [await run(gpu("bf16"), "bf16", output), await run(cpu, "f32", "f32")];
        for (const [name, values] of Object.entries(want)) {
          const error = relativeError(got[name]!, values);
          assert.ok(error <= 1e-2, `[${m}, ${k}] to ${features}: ${name}: relative error ${error}`);
        }
      }
    });
  }
}

test("products of few rows ask for no more shared memory than cards of each kind have", () => {
  for (const [capability, kibibytes] of [
    [80, 163],
    [86, 99],
    [89, 99],
    [90, 227],
    [120, 99],
  ] as const) {
    const backend = new CollectingBackend("bf16", capability);
    for (const dtype of ["nf4", "bf16"] as const) {
      for (const rows of [1, 8, 9, 16, 17, 32]) {
        for (const features of [64, 4096, 14_336]) {
          const graph = new Graph();
          const w = backend.createTensor("w", dtype, [features, 4096], { role: "weight", doubleQuant: true });
          graph.output("y", linear(graph.input("x", "bf16", [rows, 4096]), graph.use(w)));
          backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
        }
      }
    }
    const launches = [...backend.launches.values()].filter(({ kernel }) => kernel === "few_rows");
    assert.equal(launches.length, 6, `compute capability ${capability / 10}`);
    for (const { sharedBytes, threads, defines } of launches) {
      const what = `compute capability ${capability / 10}, ${JSON.stringify(defines)}`;
      assert.ok(sharedBytes! <= kibibytes * 1024, `${what}: ${sharedBytes} bytes`);
      assert.ok(threads <= 1024, `${what}: ${threads} threads`);
    }
  }
});

const MAX_LENGTH = 700;
for (const [heads, kvHeads, headDim] of [
  [8, 2, 128],
  [14, 2, 64],
  [4, 4, 96],
  [16, 1, 256],
  [4, 2, 6],
] as const) {
  for (const [label, options] of Object.entries({ plain: {}, "window, soft-cap": { window: 100, softcap: 20 } })) {
    test(`attention against a cache, heads of ${headDim}, ${heads} to ${kvHeads}, ${label} (CUDA)`, {
      skip,
    }, async () => {
      using cpu = await openCpuBackend({ threads: 4 });
      for (const lengths of [[700], [1, 700, 64, 0, 333, 65], Array.from({ length: 40 }, (_, i) => 17 * i + 5)]) {
        const n = lengths.length;
        const [width, filled] = [kvHeads * headDim, n * MAX_LENGTH];
        const inputs = {
          q: randomFloats(n * heads * headDim, 1),
          k: randomFloats(filled * width, 2),
          v: randomFloats(filled * width, 3),
          slots: Int32Array.from({ length: filled }, (_, i) => i),
          rows: Int32Array.from(lengths, (_, i) => (i === 4 ? -1 : n - 1 - i)),
          lengths: Int32Array.from(lengths),
        };
        const run = async (backend: Backend, type: FloatDType) => {
          const caches = ["k", "v"].map((name) => backend.createTensor(name, type, [filled, width], { role: "cache" }));
          const result = await compute(backend, inputs, (graph) => {
            const slots = graph.input("slots", "i32", [filled]);
            const [keys, values] = ["k", "v"].map((name, i) => {
              const x = cast(graph.input(name, "f32", [filled, width]), type);
              return kvWrite(graph.use(caches[i]!, { mutable: true }), x, slots);
            }) as [Value, Value];
            const q = cast(graph.input("q", "f32", [n, heads * headDim]), type);
            const [rows, visible] = ["rows", "lengths"].map((name) => graph.input(name, "i32", [n])) as [Value, Value];
            const shape = { heads, kvHeads, headDim, maxLength: MAX_LENGTH, scale: 0.3, window: 0, softcap: 0 };
            const o = attentionCached(q, { keys, values, rows, lengths: visible }, { ...shape, ...options });
            graph.output("o", cast(o, "f32"));
          });
          for (const tensor of caches) tensor.dispose();
          return result.o!;
        };
        const want = await run(cpu, "f32");
        for (const [type, tolerance] of [
          ["f32", 2e-5],
          [half, 2e-2],
        ] as const) {
          const error = relativeError(await run(gpu(type), type), want);
          assert.ok(error <= tolerance, `${n} tokens in ${type}: relative error ${error}`);
        }
      }
    });
  }
}

/** A model with the same numbers on any backend: linears in `dtype` with a LoRA on each, all else f32. */
async function sameModel(backend: Backend, modelType: string, dtype: "nf4" | "bf16"): Promise<CausalLM> {
  using cpu = await openCpuBackend({ threads: 1 });
  const shape = { hidden_size: 128, intermediate_size: 320, head_dim: 32, vocab_size: 203 };
  const source = tinyModel(cpu, modelType, shape);
  const parameters = new Map<string, DeviceTensor>();
  const tensors: DeviceTensor[] = [];
  for (const [name, tensor] of source.parameters) {
    const values = new Float32Array((await tensor.read()).slice().buffer);
    const linear = /_proj\.weight$/.test(name);
    const copy = backend.createTensor(name, linear ? dtype : "f32", tensor.shape, {
      role: "weight",
      doubleQuant: true,
    });
    if (linear && dtype === "nf4") {
      backend.quantize(copy, "f32", (target, at) => target.set(bytes(values).subarray(at, at + target.length)));
    } else if (linear) {
      copy.write(bytes(Uint16Array.from(new Uint16Array(values.buffer).filter((_, i) => i % 2 === 1))));
    } else copy.write(bytes(values));
    parameters.set(name, copy);
  }
  const { config, hfConfig } = source;
  const model = new CausalLM({ backend, config, hfConfig, parameters, nameOrPath: "tiny" });
  const pairs = new Map<string, LoraPair>();
  const half = (shape: [number, number], seed: number): DeviceTensor => {
    const tensor = backend.createTensor("lora", "f32", shape, { role: "adapter" });
    tensor.write(bytes(randomFloats(shape[0] * shape[1], seed).map((x) => x / Math.sqrt(shape[1]))));
    tensors.push(tensor);
    return tensor;
  };
  for (const [name, { shape }] of parameters) {
    if (!/_proj\.weight$/.test(name)) continue;
    const [out, deep] = shape as [number, number];
    const seed = pairs.size;
    const pair = { a: half([8, deep], seed), b: half([out, 8], 1000 + seed), scale: 0.5, dropout: 0 };
    pairs.set(name.replace(/\.weight$/, ""), pair);
  }
  model.adapter = { lora: (path) => pairs.get(path), loraEmbedding: () => undefined, replacement: () => undefined };
  return model;
}

for (const modelType of ["llama", "qwen2", "qwen3", "gemma2"]) {
  for (const dtype of ["nf4", "bf16"] as const) {
    test(`decoding ${modelType} with ${dtype} weights and a LoRA follows the CPU's (CUDA)`, { skip }, async () => {
      using cpu = await openCpuBackend({ threads: 4 });
      for (const batch of [1, 3, 20]) {
        const run = async (backend: Backend): Promise<Float32Array[]> => {
          using model = await sameModel(backend, modelType, dtype);
          using session = new DecodingSession(model, batch, 90);
          const prompts = Array.from({ length: batch }, (_, i) =>
            Array.from({ length: 5 + ((7 * i) % 70) }, (_, t) => (13 * t + i) % 203),
          );
          const logits = await session.prefill(prompts);
          for (let step = 0; step < 4; step++) {
            const next = prompts.map((_, i) => (i === 1 && step > 1 ? null : (17 * step + i) % 203));
            const rows = await session.decode(next);
            logits.push(...rows.filter((_, i) => next[i] !== null).map((row) => row.slice()));
          }
          return logits;
        };
        const [got, want] = [await run(gpu(half)), await run(cpu)];
        got.forEach((row, i) => {
          const error = relativeError(row, want[i]!);
          assert.ok(error <= 6e-2, `${batch} sequences, row ${i}: relative error ${error}`);
        });
      }
    });
  }
}

test("draws are the CPU's but for ties by rounding (CUDA)", { skip }, async () => {
  using cpu = await openCpuBackend({ threads: 4 });
  const [n, vocab] = [24, 50_021];
  for (const settings of [
    [0, 0, 1, 0, 1],
    [1, 0, 1, 0, 1],
    [0.7, 40, 0.9, 0.01, 1],
    [1.3, 1000, 1, 0, 1.2],
    [1, 0, 0.95, 0, 1.2],
  ]) {
    const inputs = {
      logits: randomFloats(n * vocab, 3).map((x) => 8 * x),
      settings: Float32Array.from(settings),
      draws: Uint32Array.from({ length: 4 * n }, (_, i) => [5, 1, i >> 2, 9][i % 4]!),
      rows: Int32Array.from({ length: n }, (_, i) => (i === 3 ? -1 : n - 1 - i)),
    };
    const run = async (backend: Backend) => {
      const words = Math.ceil(vocab / 32);
      const seen = backend.createTensor("seen", "u32", [n, words], { role: "cache" });
      seen.write(new Uint8Array(Uint32Array.from({ length: n * words }, (_, i) => (i * 2654435761) >>> 0).buffer));
      const graph = new Graph();
      const drawn = sample(graph.input("logits", "f32", [n, vocab]), {
        settings: graph.input("settings", "f32", [5]),
        draws: graph.input("draws", "u32", [4 * n]),
        rows: graph.input("rows", "i32", [n]),
        seen: graph.use(seen, { mutable: true }),
      });
      graph.output("tokens", drawn.tokens);
      graph.output("logProbs", drawn.logProbs);
      const executable = backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
      const { tokens, logProbs } = await executable.execute(inputs);
      const marked = await seen.read();
      executable.dispose();
      seen.dispose();
      return { tokens: tokens!, logProbs: logProbs!, marked };
    };
    const [got, want] = [await run(gpu("f32")), await run(cpu)];
    const same = got.tokens.filter((token, i) => token === want.tokens[i]).length;
    assert.ok(same >= n - 1, `${settings}: ${same} of ${n} the same`);
    if (same < n) continue;
    assert.ok(relativeError(got.logProbs, want.logProbs) <= 1e-5);
    assert.deepEqual(got.marked, want.marked);
  }
});
