import assert from "node:assert/strict";
import { test } from "node:test";
import {
  randomFloats,
  relativeError,
  runKernel,
  runtimes,
  type TensorData,
  TestMemory,
  WeightType,
  weightArguments,
} from "../../../testing/kernels.ts";
import { loadNative } from "../native.ts";
import type { CpuRuntime } from "../runtime.ts";

interface Case {
  M: number;
  N: number;
  K: number;
  transA?: boolean;
  transB?: boolean;
  K2?: number;
  alpha?: number;
  alpha2?: number;
  bias?: boolean;
  acc?: "separate" | "same";
  /** Extra elements in each stored row. */
  pad?: number;
  type?: number;
}

/** A stored matrix with `pad` poisoned elements after each row. */
function stored(rows: number, cols: number, pad: number, seed: number): { data: Float32Array; ld: number } {
  const ld = cols + pad;
  const data = randomFloats(rows * ld, seed);
  for (let r = 0; r < rows; r++) data.fill(Number.NaN, r * ld + cols, (r + 1) * ld);
  return { data, ld };
}

/** The element [i, k] of op(X). */
function element(x: { data: ArrayLike<number>; ld: number }, trans: boolean, i: number, k: number): number {
  return trans ? x.data[k * x.ld + i]! : x.data[i * x.ld + k]!;
}

function bf16(x: Float32Array): { codes: Uint16Array; values: Float32Array } {
  const bits = new Uint32Array(x.buffer, x.byteOffset, x.length);
  const codes = Uint16Array.from(bits, (b) => b >>> 16);
  return { codes, values: new Float32Array(Uint32Array.from(codes, (c) => c << 16).buffer) };
}

const HALVES = [0, 1, -2, 0.5, 2 ** -14, 2 ** -24, 65504, -0.333251953125];
const HALF_CODES = [0, 0x3c00, 0xc000, 0x3800, 0x0400, 0x0001, 0x7bff, 0xb555];

const NF4 = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
];

/** The parts of a stored weight, and the values it decodes to. */
interface Stored {
  parts: { data: TensorData; absmax?: TensorData; nested?: TensorData; map?: TensorData; offset?: number };
  values: ArrayLike<number>;
  ld: number;
}

const BLOCK = 64;

/** Random 4-bit codes and scales for n elements, and the values they mean. */
function nf4(n: number, nested: boolean, seed: number): Pick<Stored, "parts" | "values"> {
  const blocks = Math.ceil(n / BLOCK);
  const bytes = (count: number, s: number) => Uint8Array.from(randomFloats(count, s), (x) => Math.floor((x + 1) * 128));
  const data = bytes(Math.ceil(n / 2), seed);
  const absmax = randomFloats(blocks, seed + 1).map((x) => Math.abs(x) + 0.01);
  const map = randomFloats(256, seed + 2);
  const codes = bytes(blocks, seed + 3);
  const outer = randomFloats(Math.ceil(blocks / 256), seed + 4);
  const offset = 0.25;
  const scale = (b: number) => (nested ? map[codes[b]!]! * outer[b >> 8]! + offset : absmax[b]!);
  const values = Float64Array.from({ length: n }, (_, i) => {
    const code = i % 2 ? data[i >> 1]! & 15 : data[i >> 1]! >> 4;
    return NF4[code]! * scale(Math.floor(i / BLOCK));
  });
  return { parts: nested ? { data, absmax: codes, nested: outer, map, offset } : { data, absmax }, values };
}

/** B stored as a weight of the wanted type. */
function weightOf(type: number, rows: number, cols: number, pad: number): Stored {
  const { data, ld } = stored(rows, cols, type === WeightType.f32 ? pad : 0, 2);
  if (type === WeightType.f32) return { parts: { data }, values: data, ld };
  if (type === WeightType.bf16) {
    const { codes, values } = bf16(data);
    return { parts: { data: codes }, values, ld };
  }
  if (type === WeightType.f16) {
    const pick = Array.from(data, (x) => Math.floor((x + 1) * 4) % 6); // not the largest two: they would hide the rest
    return { parts: { data: Uint16Array.from(pick, (i) => HALF_CODES[i]!) }, values: pick.map((i) => HALVES[i]!), ld };
  }
  return { ...nf4(rows * ld, type === WeightType.nf4DoubleQuantised, 2), ld };
}

/** A case's operands and the result they should have. */
function prepare(c: Case) {
  const { M, N, K, transA = false, transB = false, K2 = 0, alpha = 1, alpha2 = 1, pad = 0 } = c;
  const a = transA ? stored(K, M, pad, 1) : stored(M, K, pad, 1);
  const b = weightOf(c.type ?? WeightType.f32, transB ? N : K, transB ? K : N, pad);
  const a2 = transA ? stored(K2, M, pad, 3) : stored(M, K2, pad, 3);
  const b2 = transB ? stored(N, K2, pad, 4) : stored(K2, N, pad, 4);
  const ldc = N + pad;
  const acc = randomFloats(M * ldc, 5);
  const bias = randomFloats(N, 6);
  const want = new Float64Array(M * N);
  const values = { data: b.values, ld: b.ld };
  for (let i = 0; i < M; i++) {
    for (let j = 0; j < N; j++) {
      let first = 0;
      let second = 0;
      for (let k = 0; k < K; k++) first += element(a, transA, i, k) * element(values, transB, k, j);
      for (let k = 0; k < K2; k++) second += element(a2, transA, i, k) * element(b2, transB, k, j);
      want[i * N + j] = (c.acc ? acc[i * ldc + j]! : 0) + (c.bias ? bias[j]! : 0) + alpha * first + alpha2 * second;
    }
  }
  return { a, b, a2, b2, ldc, acc, bias, want };
}

function product(runtime: CpuRuntime, c: Case, x: ReturnType<typeof prepare>): Float32Array {
  const { M, N, K, transA = false, transB = false, K2 = 0, alpha = 1, alpha2 = 1, type = WeightType.f32 } = c;
  using memory = new TestMemory(runtime);
  const put = (data: TensorData | undefined) => memory.put(data ?? null);
  const { data, absmax, nested, map, offset = 0 } = x.b.parts;
  const weight = {
    type,
    data: put(data),
    absmax: put(absmax),
    nested: put(nested),
    map: put(map),
    offset,
    block: BLOCK,
  };
  const out = c.acc === "same" ? memory.put(x.acc) : memory.output(M * x.ldc);
  const from = c.acc === "same" ? out : c.acc ? memory.put(x.acc) : 0;
  const before = memory.floats(out, M * x.ldc);
  runKernel(runtime, "matmul", [
    ...[M, N, K, memory.put(x.a.data), x.a.ld, transA],
    ...[...weightArguments(weight), x.b.ld, transB, out, x.ldc, from, c.bias ? memory.put(x.bias) : 0, alpha],
    ...[K2, memory.put(x.a2.data), x.a2.ld, memory.put(x.b2.data), x.b2.ld, alpha2],
  ]);
  const all = memory.floats(out, M * x.ldc);
  const got = new Float32Array(M * N);
  for (let i = 0; i < M; i++) {
    got.set(all.subarray(i * x.ldc, i * x.ldc + N), i * N);
    for (let p = i * x.ldc + N; p < (i + 1) * x.ldc; p++) assert.ok(Object.is(all[p], before[p]), "row padding");
  }
  return got;
}

const ALL = await runtimes();

/** Checks a case on every runtime, and that thread counts agree to the bit. */
function check(c: Case): void {
  const results = new Map<string, Float32Array>();
  const prepared = prepare(c);
  for (const [name, runtime] of ALL) {
    const got = product(runtime, c, prepared);
    const error = relativeError(got, prepared.want);
    assert.ok(error <= 1e-5, `${name}: relative error ${error} for ${JSON.stringify(c)}`);
    const kind = `${runtime.kind} ${runtime.isa}`;
    const other = results.get(kind);
    if (other) assert.ok(Buffer.from(got.buffer).equals(Buffer.from(other.buffer)), `${kind}: threads differ`);
    results.set(kind, got);
  }
}

const FLAGS = [false, true];

test("odd shapes, every transposition, bias, acc, second product", () => {
  for (const transA of FLAGS) {
    for (const transB of FLAGS) {
      for (const [M, N, K, K2] of [
        [7, 19, 23, 0],
        [13, 33, 65, 5],
        [1, 17, 130, 8],
        [3, 50, 9, 16],
        [64, 48, 64, 16],
        [50, 1, 31, 3],
        [31, 100, 1, 1],
      ] as const) {
        check({ M, N, K, K2, transA, transB, bias: true, acc: "separate", alpha: 0.5, alpha2: -2, pad: 3 });
        check({ M, N, K, K2, transA, transB, acc: "same", pad: 1 });
        check({ M, N, K, K2, transA, transB });
      }
    }
  }
});

test("depths beyond one block of K, second products too deep to append", () => {
  for (const transA of FLAGS) {
    for (const transB of FLAGS) {
      check({ M: 9, N: 21, K: 1601, K2: 300, transA, transB, bias: true, acc: "same", alpha: 0.25 });
      check({ M: 2, N: 21, K: 1601, K2: 300, transA, transB, bias: true, acc: "separate", alpha2: 0.25 });
    }
  }
});

test("more strips and blocks than threads", () => {
  for (const transA of FLAGS) check({ M: 301, N: 331, K: 40, K2: 8, transA, transB: !transA, bias: true });
  check({ M: 1633, N: 18, K: 33, K2: 5, transA: true, acc: "same" });
});

test("any number of threads gives the same bits, in a workspace sized once for all of them", () => {
  using runtime = loadNative({ file: process.env.UNSLOTH_TEST_ADDON, threads: 9 });
  for (const transA of FLAGS) {
    const c = { M: 190, N: 150, K: 70, K2: 3, transA };
    const prepared = prepare(c);
    runtime.setThreads(1);
    const one = product(runtime, c, prepared);
    assert.ok(relativeError(one, prepared.want) <= 1e-5);
    for (let threads = 2; threads <= 9; threads++) {
      runtime.setThreads(threads);
      assert.ok(
        Buffer.from(product(runtime, c, prepared).buffer).equals(Buffer.from(one.buffer)),
        `${threads} threads`,
      );
    }
  }
});

test("every weight type, stored both ways", () => {
  for (const type of Object.values(WeightType)) {
    for (const transB of FLAGS) {
      check({ M: 33, N: 70, K: 200, K2: 4, transB, type, alpha: 2 });
      check({ M: 33, N: 64, K: 192, K2: 4, transB, type });
      check({ M: 1, N: 37, K: 129, transB, type, bias: true });
      check({ M: 4, N: 128, K: 320, K2: 8, transB, type, acc: "same" });
    }
  }
});

test("depth 0 leaves acc + bias; no rows or columns leave nothing", () => {
  for (const [M, N, K, K2] of [
    [5, 7, 0, 0],
    [1, 7, 0, 0],
    [5, 7, 0, 3],
    [0, 7, 3, 0],
    [5, 0, 3, 0],
  ] as const) {
    check({ M, N, K, K2, bias: true, acc: "separate" });
    check({ M, N, K, K2, transA: true, transB: true });
  }
});

test("NaN and infinity reach the result", () => {
  for (const runtime of ALL.values()) {
    using memory = new TestMemory(runtime);
    const a = memory.put(Float32Array.of(Number.NaN, 0, Number.POSITIVE_INFINITY, 1));
    const b = memory.put(Float32Array.of(1, 1));
    const out = memory.output(2);
    const weight = weightArguments({ type: WeightType.f32, data: b });
    runKernel(runtime, "matmul", [2, 1, 2, a, 2, 0, ...weight, 2, 1, out, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert.deepEqual([...memory.floats(out, 2)], [Number.NaN, Number.POSITIVE_INFINITY]);
  }
});
