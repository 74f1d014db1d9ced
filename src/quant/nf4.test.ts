import assert from "node:assert/strict";
import { test } from "node:test";
import { oracleFloats, oracleTensors } from "../testing/oracle.ts";
import { SIGNED_DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP } from "./dynamic-maps.ts";
import {
  dequantizeNf4Reference,
  expandAbsmax,
  NF4_CODE,
  NF4_THRESHOLDS,
  nestAbsmax,
  quantizeNf4Reference,
} from "./nf4.ts";
import { torchMean } from "./torch-mean.ts";

const oracle = oracleTensors("nf4", "tensors.safetensors");
const inputs = [...oracle.keys()].filter((key) => key.endsWith(".input")).map((key) => key.slice(0, -".input".length));
const bytes = (key: string): Uint8Array => oracle.get(key)!.data;

test("codes and scales are bitsandbytes' bytes, ties, zero blocks, subnormals and odd sizes included", () => {
  assert.ok(inputs.length >= 13, `only ${inputs.length} inputs in the fixture`);
  for (const name of inputs) {
    const { data, absmax } = quantizeNf4Reference(oracleFloats(oracle, `${name}.input`));
    assert.deepEqual(data, bytes(`${name}.plain.weight`), name);
    assert.deepEqual(absmax, oracleFloats(oracle, `${name}.plain.weight.absmax`), name);
  }
});

test("double quantisation gives bitsandbytes' codes, scales and offset", () => {
  for (const name of inputs) {
    const map = oracleFloats(oracle, `${name}.nested.weight.nested_quant_map`);
    const nested = nestAbsmax(oracleFloats(oracle, `${name}.plain.weight.absmax`), map);
    assert.deepEqual(nested.codes, bytes(`${name}.nested.weight.absmax`), name);
    assert.deepEqual(nested.absmax, oracleFloats(oracle, `${name}.nested.weight.nested_absmax`), name);
    const json = new TextDecoder().decode(bytes(`${name}.nested.weight.quant_state.bitsandbytes__nf4`));
    assert.equal(nested.offset, JSON.parse(json).nested_offset, name);
    // The map built in differs from the fixture's in last bits only: the codes are the same.
    assert.deepEqual(nestAbsmax(oracleFloats(oracle, `${name}.plain.weight.absmax`)).codes, nested.codes, name);
  }
});

test("decoding is code times scale, as bitsandbytes decodes f32 weights", () => {
  for (const name of inputs.filter((n) => n.startsWith("f32"))) {
    const decoded = oracleFloats(oracle, `${name}.plain.decoded`);
    const absmax = oracleFloats(oracle, `${name}.plain.weight.absmax`);
    const data = bytes(`${name}.plain.weight`);
    assert.deepEqual(dequantizeNf4Reference({ data, absmax }, decoded.length), decoded, name);
  }
});

test("nested scales decode as in the saved weights", () => {
  for (const name of inputs.filter((n) => n.startsWith("f32"))) {
    const nested = nestAbsmax(
      oracleFloats(oracle, `${name}.plain.weight.absmax`),
      oracleFloats(oracle, `${name}.nested.weight.nested_quant_map`),
    );
    const decoded = oracleFloats(oracle, `${name}.nested.decoded`);
    const data = bytes(`${name}.nested.weight`);
    const ours = dequantizeNf4Reference({ data, absmax: expandAbsmax(nested) }, decoded.length);
    assert.deepEqual(ours, decoded, name);
  }
});

test("the code table and maps are bitsandbytes', maps to the last bits", () => {
  assert.deepEqual(Float32Array.from(NF4_CODE), oracleFloats(oracle, "nf4_code"));
  for (const [key, map] of [
    ["dynamic_map_signed", SIGNED_DYNAMIC_MAP],
    ["dynamic_map_unsigned", UNSIGNED_DYNAMIC_MAP],
  ] as const) {
    const theirs = oracleFloats(oracle, key);
    assert.equal(map.length, 256);
    map.forEach((x, i) => {
      const ulps = Math.abs(x - theirs[i]!) / (Math.abs(x) * 2 ** -23 || 1);
      assert.ok(ulps <= 2, `${key}[${i}]: ${x} and ${theirs[i]} are ${ulps} units apart`);
      assert.ok(i === 0 || x > map[i - 1]!, `${key} ascends at ${i}`);
    });
  }
  assert.equal(SIGNED_DYNAMIC_MAP[127], 0);
  assert.equal(UNSIGNED_DYNAMIC_MAP[0], 0);
  assert.ok(NF4_THRESHOLDS.every((t, i) => t > NF4_CODE[i]! && t < NF4_CODE[i + 1]!));
});

test("NaN and infinity spoil their own block only", () => {
  const x = new Float32Array(192).fill(0.5);
  x[3] = Number.NaN;
  x[70] = Number.NEGATIVE_INFINITY;
  const { data, absmax } = quantizeNf4Reference(x);
  assert.deepEqual([...absmax], [Number.NaN, Number.POSITIVE_INFINITY, 0.5]);
  assert.ok(data.subarray(0, 32).every((byte) => byte === 0xff));
  assert.ok(data.subarray(64).every((byte) => byte === 0xff));
  assert.deepEqual([data[35], data[40]], [0xf7, 0x77]);
});

test("an unknown block size is refused", () => {
  assert.throws(() => quantizeNf4Reference(new Float32Array(4), 48), /block size must be one of 32, 64.*found 48/);
});

/** torch 2.15 on AVX2, one thread. */
const TORCH_MEANS: readonly (readonly [number, number])[] = [
  [1, 0.33333334],
  [3, 0.6223958],
  [7, 0.6369048],
  [8, 0.6546224],
  [9, 0.7005209],
  [31, 0.7239584],
  [33, 0.726089],
  [100, 0.7228645],
  [257, 0.72328967],
  [1000, 0.7240364],
  [4095, 0.72391623],
  [5184, 0.7239719],
  [13824, 0.72394526],
  [32767, 0.72394663],
  [100003, 0.7239514],
];

test("torchMean is torch's, as measured", () => {
  // Values (i·37 mod 101)/128 + 1/3 in f32, so that the order of the roundings shows.
  const values = (n: number) => Float32Array.from({ length: n }, (_, i) => Math.fround(((i * 37) % 101) / 128 + 1 / 3));
  for (const [n, mean] of TORCH_MEANS) assert.equal(torchMean(values(n)), Math.fround(mean), `mean of ${n}`);
});
