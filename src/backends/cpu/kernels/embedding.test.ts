import assert from "node:assert/strict";
import { test } from "node:test";
import { bf16ToF32, f32ToBf16 } from "../../../formats/float16.ts";
import { dequantizeNf4Reference, quantizeNf4Reference } from "../../../quant/nf4.ts";
import { everywhere } from "../../../testing/kernel-cases.ts";
import { randomFloats, relativeError, runKernel, WeightType, weightArguments } from "../../../testing/kernels.ts";

const IDS = Int32Array.of(3, 0, 4, 3, -1, 9, 5, 3, 2147483647, -2147483648, 8, 0);

/** out[t] = scale·table[ids[t]] in float64. */
function gather(table: ArrayLike<number>, V: number, d: number, ids: Int32Array, scale: number, transposed = false) {
  const out = new Float64Array(ids.length * d);
  ids.forEach((id, t) => {
    if (id < 0 || id >= V) return;
    for (let j = 0; j < d; j++) out[t * d + j] = scale * table[transposed ? j * V + id : id * d + j]!;
  });
  return out;
}

test("embedding gathers rows; ids outside the table give zeros", () => {
  const V = 9;
  for (const d of [1, 5, 8, 67]) {
    for (const transposed of [false, true]) {
      for (const scale of [1, 3.5]) {
        const table = randomFloats(V * d, d);
        everywhere(
          (memory, rt) => {
            const out = memory.output(IDS.length * d);
            const weight = weightArguments({ type: WeightType.f32, data: memory.put(table) });
            const ld = transposed ? V : d;
            runKernel(rt, "embedding", [IDS.length, d, V, ...weight, ld, transposed, memory.put(IDS), scale, out]);
            return [memory.floats(out, IDS.length * d)];
          },
          ([out], isa) => {
            const error = relativeError(out, gather(table, V, d, IDS, scale, transposed));
            assert.ok(error <= 1e-7, `${isa} d=${d} transposed=${transposed}: ${error}`);
          },
        );
      }
    }
  }
});

test("embedding decodes bf16 and NF4 tables", () => {
  const [V, d] = [9, 67];
  const table = randomFloats(V * d, 1);
  const half = new Uint16Array(V * d);
  f32ToBf16(table, half);
  const rounded = new Float32Array(V * d);
  bf16ToF32(half, rounded);
  const nf4 = quantizeNf4Reference(table);
  for (const scale of [1, 0.5]) {
    everywhere(
      (memory, rt) => {
        const run = (weight: number[]) => {
          const out = memory.output(IDS.length * d);
          runKernel(rt, "embedding", [IDS.length, d, V, ...weight, d, 0, memory.put(IDS), scale, out]);
          return memory.floats(out, IDS.length * d);
        };
        return [
          run(weightArguments({ type: WeightType.bf16, data: memory.put(half) })),
          run(weightArguments({ type: WeightType.nf4, data: memory.put(nf4.data), absmax: memory.put(nf4.absmax) })),
        ];
      },
      ([bf16, quantised], isa) => {
        assert.equal(relativeError(bf16!, gather(rounded, V, d, IDS, scale)), 0, isa);
        assert.equal(relativeError(quantised!, gather(dequantizeNf4Reference(nf4, V * d), V, d, IDS, scale)), 0, isa);
      },
    );
  }
});

test("embedding_grad adds rows in order, onto nothing, another matrix, or itself", () => {
  const V = 9;
  for (const d of [1, 6, 40]) {
    for (const transposed of [false, true]) {
      for (const mode of ["absent", "separate", "same"]) {
        const dy = randomFloats(IDS.length * d, 2);
        const start = randomFloats(V * d, 3);
        const want = Float64Array.from(mode === "absent" ? new Float32Array(V * d) : start);
        IDS.forEach((id, t) => {
          if (id < 0 || id >= V) return;
          for (let j = 0; j < d; j++) want[transposed ? j * V + id : id * d + j]! += 0.5 * dy[t * d + j]!;
        });
        everywhere(
          (memory, rt) => {
            const dw = mode === "same" ? memory.put(start) : memory.output(V * d);
            const acc = mode === "absent" ? 0 : mode === "same" ? dw : memory.put(start);
            const [grad, ids] = [memory.put(dy), memory.put(IDS)];
            runKernel(rt, "embedding_grad", [IDS.length, d, V, transposed, grad, ids, 0.5, acc, dw]);
            return [memory.floats(dw, V * d)];
          },
          ([dw], isa) => {
            const error = relativeError(dw, want);
            assert.ok(error <= 1e-6, `${isa} d=${d} transposed=${transposed} acc=${mode}: ${error}`);
          },
        );
      }
    }
  }
});

test("embedding_grad over a large table leaves the rows without tokens as they are, and does not depend on threads", () => {
  const [V, d, T] = [4000, 33, 600];
  const ids = Int32Array.from(randomFloats(T, 5), (x) => Math.floor(x * x * 40)); // many repeats
  const dy = randomFloats(T * d, 6);
  const start = randomFloats(V * d, 7);
  everywhere(
    (memory, rt) => {
      const dw = memory.put(start);
      runKernel(rt, "embedding_grad", [T, d, V, 0, memory.put(dy), memory.put(ids), 1, dw, dw]);
      return [memory.floats(dw, V * d)];
    },
    ([dw]) => {
      assert.deepEqual(dw.subarray(40 * d), start.subarray(40 * d));
      const want = Float64Array.from(start);
      ids.forEach((id, t) => {
        for (let j = 0; j < d; j++) want[id * d + j]! += dy[t * d + j]!;
      });
      assert.ok(relativeError(dw, want) <= 1e-6);
    },
  );
});

test("select_rows gathers and select_rows_grad scatters; rows outside give zeros and are skipped", () => {
  const [T, d] = [6, 19];
  const rows = Int32Array.of(5, -1, 0, 5, 6, 2, -100);
  const x = randomFloats(T * d, 1);
  const dy = randomFloats(rows.length * d, 2);
  const acc = randomFloats(T * d, 3);
  const gathered = gather(x, T, d, rows, 1);
  const added = new Float64Array(T * d);
  rows.forEach((row, i) => {
    if (row >= 0 && row < T) for (let j = 0; j < d; j++) added[row * d + j]! += dy[i * d + j]!;
  });
  everywhere(
    (memory, rt) => {
      const out = memory.output(rows.length * d);
      const at = memory.put(rows);
      runKernel(rt, "select_rows", [rows.length, d, T, memory.put(x), at, out]);
      const results = [memory.floats(out, rows.length * d)];
      const same = memory.put(acc);
      for (const [from, to] of [
        [0, memory.output(T * d)],
        [memory.put(acc), memory.output(T * d)],
        [same, same],
      ] as const) {
        runKernel(rt, "select_rows_grad", [rows.length, d, T, memory.put(dy), at, from, to]);
        results.push(memory.floats(to, T * d));
      }
      return results;
    },
    ([out, plain, separate, same], isa) => {
      const onto = added.map((value, i) => value + acc[i]!);
      assert.equal(relativeError(out!, gathered), 0, isa);
      assert.ok(relativeError(plain!, added) <= 1e-6, isa);
      assert.ok(relativeError(separate!, onto) <= 1e-6, isa);
      assert.deepEqual(same, separate, isa);
    },
  );
});
