import assert from "node:assert/strict";
import { test } from "node:test";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../../../formats/float16.ts";
import { dequantizeNf4Reference, expandAbsmax, nestAbsmax, quantizeNf4Reference } from "../../../quant/nf4.ts";
import { everywhere } from "../../../testing/kernel-cases.ts";
import { randomFloats, runKernel, WeightType, weightArguments } from "../../../testing/kernels.ts";
import { oracleFloats, oracleTensors } from "../../../testing/oracle.ts";

const oracle = oracleTensors("nf4", "tensors.safetensors");
const SOURCE = { F32: WeightType.f32, BF16: WeightType.bf16, F16: WeightType.f16 } as const;

test("quantize_nf4 gives bitsandbytes' bytes from f32, bf16 and f16", () => {
  const names = [...oracle.keys()].filter((key) => key.endsWith(".input")).map((key) => key.slice(0, -".input".length));
  for (const name of names) {
    const { dtype, shape, data } = oracle.get(`${name}.input`)!;
    const n = shape.reduce((a, b) => a * b, 1);
    const blocks = Math.ceil(n / 64);
    everywhere(
      (memory, rt) => {
        const [codes, absmax] = [memory.put(new Uint8Array((n + 1) >> 1).fill(0xaa)), memory.output(blocks)];
        runKernel(rt, "quantize_nf4", [n, SOURCE[dtype as keyof typeof SOURCE], memory.put(data), 64, codes, absmax]);
        return [memory.copy(codes, (n + 1) >> 1), memory.floats(absmax, blocks)];
      },
      ([codes, absmax], isa) => {
        assert.deepEqual(codes, oracle.get(`${name}.plain.weight`)!.data, `${isa} ${name}`);
        assert.deepEqual(absmax, oracleFloats(oracle, `${name}.plain.weight.absmax`), `${isa} ${name}`);
      },
    );
  }
});

test("quantize_nf4 equals the reference for every block size and ragged ends", () => {
  for (const block of [32, 64, 256, 4096]) {
    for (const n of [1, block - 1, block, 3 * block + 7, 20_000]) {
      const x = randomFloats(n, block + n);
      if (n > 70) x[69] = Number.NaN;
      const want = quantizeNf4Reference(x, block);
      everywhere(
        (memory, rt) => {
          const [codes, absmax] = [memory.put(new Uint8Array(want.data.length)), memory.output(want.absmax.length)];
          runKernel(rt, "quantize_nf4", [n, WeightType.f32, memory.put(x), block, codes, absmax]);
          return [memory.copy(codes, want.data.length), memory.floats(absmax, want.absmax.length)];
        },
        ([codes, absmax], isa) => {
          assert.deepEqual(codes, want.data, `${isa} n=${n} block=${block}`);
          assert.deepEqual([...absmax!], [...want.absmax], `${isa} n=${n} block=${block}`);
        },
      );
    }
  }
});

test("dequantize decodes every weight type, whole matrices and the start of longer rows", () => {
  const [rows, ld] = [11, 70];
  const x = randomFloats(rows * ld, 9);
  const [bf16, f16] = [new Uint16Array(x.length), new Uint16Array(x.length)];
  f32ToBf16(x, bf16);
  f32ToF16(x, f16);
  const [bf16Values, f16Values] = [new Float32Array(x.length), new Float32Array(x.length)];
  bf16ToF32(bf16, bf16Values);
  f16ToF32(f16, f16Values);
  const nf4 = quantizeNf4Reference(x);
  const nested = nestAbsmax(nf4.absmax);
  const wants = [
    x,
    bf16Values,
    f16Values,
    dequantizeNf4Reference(nf4, x.length),
    dequantizeNf4Reference({ data: nf4.data, absmax: expandAbsmax(nested) }, x.length),
  ];
  for (const cols of [ld, 33]) {
    everywhere(
      (memory, rt) => {
        const codes = memory.put(nf4.data);
        const weights = [
          { type: WeightType.f32, data: memory.put(x) },
          { type: WeightType.bf16, data: memory.put(bf16) },
          { type: WeightType.f16, data: memory.put(f16) },
          { type: WeightType.nf4, data: codes, absmax: memory.put(nf4.absmax) },
          {
            type: WeightType.nf4DoubleQuantised,
            data: codes,
            absmax: memory.put(nested.codes),
            nested: memory.put(nested.absmax),
            map: memory.put(nested.map),
            offset: nested.offset,
          },
        ];
        return weights.map((weight) => {
          const out = memory.output(rows * cols);
          runKernel(rt, "dequantize", [...weightArguments(weight), ld, rows, cols, out]);
          return memory.floats(out, rows * cols);
        });
      },
      (outputs, isa) =>
        outputs.forEach((got, type) => {
          const want = Float32Array.from(got, (_, i) => wants[type]![Math.floor(i / cols) * ld + (i % cols)]!);
          if (type < 4) return assert.deepEqual(got, want, `${isa} type ${type}`);
          // Nested scales are a product and a sum, which some instruction sets round once.
          got.forEach((v, i) => {
            assert.ok(Math.abs(v - want[i]!) <= 3e-7 * Math.abs(want[i]!), `${isa} element ${i}: ${v}, ${want[i]}`);
          });
        }),
    );
  }
});
