import assert from "node:assert/strict";
import { test } from "node:test";
import { everywhere } from "../../../testing/kernel-cases.ts";
import { randomFloats, runKernel } from "../../../testing/kernels.ts";

type Words = readonly [number, number, number, number];

/** Philox-4x32-10 (Salmon, Moraes, Dror & Shaw 2011): four 32-bit numbers from a counter and a key. */
function philox(counter: Words, key: readonly [number, number]): Words {
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  const low = (x: bigint) => x & 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const p = 0xd2511f53n * c0;
    const q = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(q >> 32n) ^ c1 ^ k0, low(q), (p >> 32n) ^ c3 ^ k1, low(p)];
    k0 = low(k0 + 0x9e3779b9n);
    k1 = low(k1 + 0xbb67ae85n);
  }
  return [c0, c1, c2, c3].map(Number) as unknown as Words;
}

const hex = (words: Words) => words.map((w) => w.toString(16).padStart(8, "0")).join(" ");

test("the test's Philox gives Random123's published known answers", () => {
  const f = 0xffffffff;
  assert.equal(hex(philox([0, 0, 0, 0], [0, 0])), "6627e8d5 e169c58d bc57ac4c 9b00dbd8");
  assert.equal(hex(philox([f, f, f, f], [f, f])), "408f276d 41c83b0e a20bc7c6 6d5451fd");
  const pi = philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]);
  assert.equal(hex(pi), "d16cfe09 94fdcceb 5001e420 24126ea1");
});

test("the kernel's numbers are the published ones: each is kept up to its own value and dropped beyond", () => {
  const words = [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]; // counter 0, key 0
  everywhere(
    (memory, rt) => {
      const x = memory.put(new Float32Array(4).fill(1));
      const seed = memory.put(Uint32Array.of(0, 0));
      return words.map((word, i) => {
        const kept = [word, word + 1].map((threshold) => {
          const y = memory.output(4);
          runKernel(rt, "dropout", [4, threshold / 2 ** 32, seed, 0, x, y]);
          return memory.floats(y, 4)[i]! > 0 ? 1 : 0;
        });
        return Uint8Array.from(kept);
      });
    },
    (kept, isa) => {
      for (const pair of kept) assert.deepEqual([...pair], [1, 0], isa);
    },
  );
});

test("dropout keeps what Philox keyed by the seed says, element by element, also in place", () => {
  const n = 20_003;
  const x = randomFloats(n, 1).map((v) => v + 2);
  const p = 0.3;
  for (const [seed, salt] of [
    [[1, 2], 0n],
    [[0xdeadbeef, 0x80000000], (7n << 32n) | 0xfffffffen],
  ] as const) {
    everywhere(
      (memory, rt) => {
        const [at, key, y] = [memory.put(x), memory.put(Uint32Array.from(seed)), memory.output(n)];
        runKernel(rt, "dropout", [n, p, key, salt, at, y]);
        runKernel(rt, "dropout", [n, p, key, salt, at, at]);
        return [memory.floats(y, n), memory.floats(at, n)];
      },
      ([y, inPlace], isa) => {
        assert.deepEqual(inPlace, y, isa);
        const scale = Math.fround(1 / (1 - p));
        const threshold = Math.floor(p * 2 ** 32);
        const salts = [Number(salt & 0xffffffffn), Number(salt >> 32n)] as const;
        for (const i of [0, 1, 2, 3, 4, 63, 64, 8191, 8192, 8193, 16_385, n - 1]) {
          const word = philox([Math.floor(i / 4), 0, ...salts], seed)[i % 4]!;
          assert.equal(y[i], word >= threshold ? Math.fround(x[i]! * scale) : 0, `${isa}: element ${i}`);
        }
        const dropped = y.reduce((count, v) => count + (v === 0 ? 1 : 0), 0) / n;
        assert.ok(Math.abs(dropped - p) < 0.015, `${isa}: dropped ${dropped}`);
      },
    );
  }
});

test("p = 0 keeps everything, p = 1 nothing", () => {
  everywhere(
    (memory, rt) => {
      const x = memory.put(Float32Array.of(1, -2, 3, 4, 5));
      const seed = memory.put(Uint32Array.of(3, 4));
      return [0, 1].map((p) => {
        const y = memory.output(5);
        runKernel(rt, "dropout", [5, p, seed, 1, x, y]);
        return memory.floats(y, 5);
      });
    },
    ([all, none], isa) => {
      assert.deepEqual([...all!], [1, -2, 3, 4, 5], isa);
      assert.deepEqual([...none!], [0, 0, 0, 0, 0], isa);
    },
  );
});
