import assert from "node:assert/strict";
import { test } from "node:test";
import { Rng } from "./rng.ts";

test("xoshiro128** gives the reference sequence for a known state", () => {
  // By hand from the definition: state 1, 2, 3, 4 gives rotl(2·5, 7)·9 = 11520 first, then 0, 5927040, 70819200, …
  const rng = Rng.fromState([1, 2, 3, 4]);
  const reference = referenceXoshiro(1n, 2n, 3n, 4n, 1000);
  const found = Array.from({ length: 1000 }, () => rng.uint32());
  assert.equal(found[0], 11520);
  assert.deepEqual(found, reference);
});

test("filling an array gives the same numbers as asking for each, and goes on from there", () => {
  const one = new Rng(9);
  const all = new Rng(9);
  const target = new Uint32Array(1000);
  all.fillUint32(target);
  assert.deepEqual(
    [...target],
    Array.from({ length: 1000 }, () => one.uint32()),
  );
  assert.deepEqual(all.state(), one.state());
  assert.equal(all.uint32(), one.uint32());
});

test("same seed, same numbers; another seed, others; the high bits of a seed count", () => {
  const draw = (seed: number): number[] => {
    const rng = new Rng(seed);
    return Array.from({ length: 8 }, () => rng.uint32());
  };
  assert.deepEqual(draw(42), draw(42));
  assert.notDeepEqual(draw(42), draw(43));
  assert.notDeepEqual(draw(1), draw(1 + 2 ** 32));
  for (const seed of [-1, 1.5, Number.NaN, 2 ** 53]) assert.throws(() => new Rng(seed), /seed: found/);
});

test("a saved state goes on where it was, through JSON", () => {
  const rng = new Rng(7);
  for (let i = 0; i < 100; i++) rng.float();
  const copy = Rng.fromState(JSON.parse(JSON.stringify(rng.state())));
  for (let i = 0; i < 100; i++) assert.equal(copy.normal(), rng.normal());
  assert.throws(() => Rng.fromState([0, 0, 0, 0]), /not all zero/);
  assert.throws(() => Rng.fromState([1, 2, 3, 2 ** 32]), /32-bit/);
});

test("below is uniform, float stays in [0, 1), normal has mean 0 and variance 1", () => {
  const rng = new Rng(3);
  const counts = [0, 0, 0, 0, 0, 0, 0];
  for (let i = 0; i < 70_000; i++) counts[rng.below(7)]!++;
  // 10,000 each, standard deviation 93.
  for (const count of counts) assert.ok(Math.abs(count - 10_000) < 450, `${counts}`);
  let sum = 0;
  let squares = 0;
  for (let i = 0; i < 50_000; i++) {
    const f = rng.float();
    assert.ok(f >= 0 && f < 1);
    const z = rng.normal();
    sum += z;
    squares += z * z;
  }
  assert.ok(Math.abs(sum / 50_000) < 0.02);
  assert.ok(Math.abs(squares / 50_000 - 1) < 0.03);
  for (const n of [0, 1.5, 2 ** 32 + 1]) assert.throws(() => rng.below(n), RangeError);
});

test("a permutation holds every index once, and each order comes up equally often", () => {
  const rng = new Rng(5);
  assert.deepEqual(
    [...rng.permutation(1000)].sort((a, b) => a - b),
    Array.from({ length: 1000 }, (_, i) => i),
  );
  const seen = new Map<string, number>();
  for (let i = 0; i < 6000; i++) {
    const key = rng.permutation(3).join();
    seen.set(key, (seen.get(key) ?? 0) + 1);
  }
  assert.equal(seen.size, 6);
  for (const count of seen.values()) assert.ok(Math.abs(count - 1000) < 150);
});

/** The published definition, in exact integers. */
function referenceXoshiro(a: bigint, b: bigint, c: bigint, d: bigint, n: number): number[] {
  const mask = 0xffffffffn;
  const rotl = (x: bigint, k: bigint): bigint => ((x << k) | (x >> (32n - k))) & mask;
  const s = [a, b, c, d] as [bigint, bigint, bigint, bigint];
  return Array.from({ length: n }, () => {
    const result = (rotl((s[1] * 5n) & mask, 7n) * 9n) & mask;
    const t = (s[1] << 9n) & mask;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 11n);
    return Number(result);
  });
}
