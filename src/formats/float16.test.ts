import assert from "node:assert/strict";
import { test } from "node:test";
import { bf16ToF32, f16ToF32, f16Values, f32ToBf16, f32ToF16 } from "./float16.ts";

const bitsOf = (values: Float32Array) => new Uint32Array(values.buffer);
const allPatterns = Uint16Array.from({ length: 65536 }, (_, i) => i);

function f16ByDefinition(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const mantissa = half & 0x3ff;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

function toF16(...values: number[]): number[] {
  const target = new Uint16Array(values.length);
  f32ToF16(Float32Array.from(values), target);
  return [...target];
}

function toBf16(...values: number[]): number[] {
  const target = new Uint16Array(values.length);
  f32ToBf16(Float32Array.from(values), target);
  return [...target];
}

test("every f16 widens to the value its definition gives", () => {
  const wide = new Float32Array(65536);
  f16ToF32(allPatterns, wide);
  for (let half = 0; half < 65536; half++)
    assert.ok(Object.is(wide[half], f16ByDefinition(half)), `0x${half.toString(16)}`);
  assert.deepEqual(f16Values(), wide);
});

test("every f16 and bf16 survives a round trip; NaNs become quiet and keep sign and payload", () => {
  const wide = new Float32Array(65536);
  const back = new Uint16Array(65536);
  f16ToF32(allPatterns, wide);
  f32ToF16(wide, back);
  for (let half = 0; half < 65536; half++) {
    const isNaN16 = (half & 0x7fff) > 0x7c00;
    assert.equal(back[half], isNaN16 ? half | 0x200 : half);
  }
  bf16ToF32(allPatterns, wide);
  assert.equal(bitsOf(wide)[0x7f81], 0x7f810000);
  f32ToBf16(wide, back);
  for (let half = 0; half < 65536; half++) {
    const isNaN16 = (half & 0x7fff) > 0x7f80;
    assert.equal(back[half], isNaN16 ? half | 0x40 : half);
  }
});

test("between two neighbouring f16 the nearer wins and a tie goes to the even one", () => {
  const below = new Float32Array(0x7bff);
  const middle = new Float32Array(0x7bff);
  const above = new Float32Array(0x7bff);
  for (let half = 0; half < 0x7bff; half++) {
    middle[half] = (f16ByDefinition(half) + f16ByDefinition(half + 1)) / 2;
  }
  bitsOf(below).set(bitsOf(middle).map((bits) => bits - 1));
  bitsOf(above).set(bitsOf(middle).map((bits) => bits + 1));
  const target = new Uint16Array(0x7bff);
  f32ToF16(below, target);
  for (let half = 0; half < 0x7bff; half++) assert.equal(target[half], half);
  f32ToF16(above, target);
  for (let half = 0; half < 0x7bff; half++) assert.equal(target[half], half + 1);
  f32ToF16(middle, target);
  for (let half = 0; half < 0x7bff; half++) assert.equal(target[half], half + (half & 1));
});

test("f16 overflow, underflow and signs", () => {
  assert.deepEqual(
    toF16(65504, 65519.996, 65520, 1e30, Number.POSITIVE_INFINITY),
    [0x7bff, 0x7bff, 0x7c00, 0x7c00, 0x7c00],
  );
  assert.deepEqual(toF16(-0, -65520, 2 ** -25, 2 ** -25 * 1.001, -1e-45), [0x8000, 0xfc00, 0, 1, 0x8000]);
  assert.equal(toF16(Number.NaN)[0]! & 0x7fff, 0x7e00);
});

test("bf16 rounds to nearest even", () => {
  assert.deepEqual(toBf16(1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20), [0x3f80, 0x3f80, 0x3f82, 0x3f81]);
  assert.deepEqual(toBf16(3.4028235e38, -0, Number.NEGATIVE_INFINITY, 1e-45), [0x7f80, 0x8000, 0xff80, 0]);
});

test("lengths that are no multiple of the unrolling, and nothing beyond them", () => {
  for (let n = 0; n < 9; n++) {
    const wide = new Float32Array(n + 1).fill(7);
    f16ToF32(new Uint16Array(n).fill(0x3c00), wide.subarray(0, n));
    assert.deepEqual([...wide], [...Array(n).fill(1), 7]);
    bf16ToF32(new Uint16Array(n).fill(0x4000), wide.subarray(0, n));
    assert.deepEqual([...wide], [...Array(n).fill(2), 7]);
  }
});

test("a target of another length is refused", () => {
  assert.throws(
    () => f16ToF32(new Uint16Array(2), new Float32Array(3)),
    /target: found 3 elements; expected the source's 2/,
  );
});
