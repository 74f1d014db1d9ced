import assert from "node:assert/strict";
import { after, describe, it } from "node:test";
import { loadNative } from "./native.ts";
import { type CpuRuntime, encodeInstruction, type KernelArgument } from "./runtime.ts";
import { loadWasm } from "./wasm.ts";

const file = process.env.UNSLOTH_TEST_ADDON;
const wasm = process.env.UNSLOTH_TEST_WASM;
const MAKERS: Record<string, (threads?: number) => Promise<CpuRuntime>> = {
  native: async (threads) => loadNative({ file, threads }),
  wasm: (threads) => loadWasm({ file: wasm, threads }),
};

type Instruction = [kernel: string, args: KernelArgument[], workspace?: number];

/** Writes a program into the runtime's memory. */
function program(runtime: CpuRuntime, instructions: Instruction[]): { address: number; words: number } {
  const parts = instructions.map(([kernel, args, workspace]) => encodeInstruction(runtime, kernel, args, workspace));
  const words = parts.reduce((n, part) => n + part.length, 0);
  const address = runtime.alloc(words * 8);
  const all = new BigUint64Array(words);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  runtime.bytes(address, words * 8).set(new Uint8Array(all.buffer));
  return { address, words };
}

function floats(runtime: CpuRuntime, address: number, n: number): number[] {
  return [...new Float32Array(runtime.bytes(address, 4 * n).slice().buffer)];
}

const ADD_CONSTANT = 15;
const addOne = (address: number, n: number): Instruction => ["unary", [n, ADD_CONSTANT, 1, address, address]];

for (const [name, make] of Object.entries(MAKERS)) {
  describe(`${name} runtime`, async () => {
    const runtime = await make(2);
    after(() => runtime.dispose());

    it("allocates zeroed, aligned memory and keeps count", () => {
      const before = runtime.memory().allocated;
      const a = runtime.alloc(100);
      const b = runtime.alloc(1000);
      assert.equal(a % 64, 0);
      assert.equal(b % 64, 0);
      assert.ok(runtime.bytes(b, 1000).every((byte) => byte === 0));
      runtime.bytes(b, 1000).fill(7);
      assert.ok(runtime.bytes(a, 100).every((byte) => byte === 0));
      assert.equal(runtime.memory().allocated, before + 1100);
      runtime.free(b);
      const c = runtime.alloc(1000); // probably where b was
      assert.ok(runtime.bytes(c, 1000).every((byte) => byte === 0));
      runtime.free(a);
      runtime.free(c);
      assert.equal(runtime.memory().allocated, before);
      assert.ok(runtime.memory().peak >= before + 1100);
    });

    it("reuses freed memory in any order", () => {
      let state = 1;
      const next = (n: number) => {
        state = (state * 48271) % 2147483647;
        return state % n;
      };
      const live: { address: number; bytes: number; mark: number }[] = [];
      for (let step = 0; step < 2000; step++) {
        if (live.length < 20 || next(2)) {
          const bytes = next(20000);
          const block = { address: runtime.alloc(bytes), bytes, mark: step % 251 };
          assert.ok(runtime.bytes(block.address, bytes).every((byte) => byte === 0));
          runtime.bytes(block.address, bytes).fill(block.mark);
          live.push(block);
        } else {
          const [block] = live.splice(next(live.length), 1);
          assert.ok(runtime.bytes(block!.address, block!.bytes).every((byte) => byte === block!.mark));
          runtime.free(block!.address);
        }
      }
      for (const { address } of live) runtime.free(address);
      const again = runtime.alloc(300000); // only a heap that joins its holes has room without growing
      runtime.free(again);
      assert.ok(name !== "wasm" || again < 64 * 65536, "the heap grew for holes it has");
    });

    it("refuses sizes, ranges and addresses that are not there", () => {
      for (const bytes of [-1, 0.5, Number.NaN, Infinity]) assert.throws(() => runtime.alloc(bytes), RangeError);
      assert.throws(() => runtime.alloc(2 ** 47), /not enough memory for 128\.0 TiB more/);
      const a = runtime.alloc(64);
      assert.throws(() => runtime.bytes(a, 65), /65 bytes at address \d+ are not inside one allocation/);
      assert.throws(() => runtime.bytes(a - 1, 1), RangeError);
      assert.throws(() => runtime.bytes(a, -1), RangeError);
      assert.throws(() => runtime.bytes(a, 2 ** 30 + 1), /in parts/);
      assert.throws(() => runtime.free(a + 8), /not allocated here/);
      runtime.free(a);
      assert.throws(() => runtime.free(a), /free already/);
      assert.throws(() => runtime.bytes(a, 1), RangeError);
    });

    it("runs instructions in order, on and off the main thread, and times them", async () => {
      const x = runtime.alloc(4000);
      const p = program(runtime, [addOne(x, 1000), ["unary", [1000, 14, 3, x, x]], addOne(x, 1000)]);
      runtime.runSync(p.address, p.words);
      assert.deepEqual(floats(runtime, x, 1000), Array(1000).fill(4));
      const timings = new Float64Array(4).fill(-1);
      await runtime.run(p.address, p.words, { timings });
      assert.deepEqual(floats(runtime, x, 1000), Array(1000).fill(16));
      assert.ok(
        timings.subarray(0, 3).every((ns) => ns >= 0 && ns < 1e9),
        `${timings}`,
      );
      await runtime.run(p.address, 0);
      runtime.free(p.address);
      runtime.free(x);
    });

    it("runs queued programs one after another while the event loop stays free", async () => {
      const n = 300000;
      const x = runtime.alloc(4 * n);
      const p = program(runtime, Array(40).fill(addOne(x, n)));
      const runs = [1, 2, 3].map(() => runtime.run(p.address, p.words));
      assert.equal(runtime.running, true);
      assert.throws(() => runtime.runSync(p.address, p.words), /await it/);
      assert.throws(() => runtime.free(x), /while a program runs/);
      let ticks = 0;
      const timer = setInterval(() => ticks++, 1);
      await Promise.all(runs);
      clearInterval(timer);
      assert.ok(ticks > 0);
      assert.equal(runtime.running, false);
      assert.deepEqual(floats(runtime, x, 2), [120, 120]);
      runtime.free(p.address);
      runtime.free(x);
    });

    it("stops at an abort signal", async () => {
      const n = 100000;
      const x = runtime.alloc(4 * n);
      const p = program(runtime, Array(20000).fill(addOne(x, n)));
      const reason = new Error("enough");
      const controller = new AbortController();
      const run = runtime.run(p.address, p.words, { signal: controller.signal });
      const queued = runtime.run(p.address, p.words, { signal: controller.signal });
      setTimeout(() => controller.abort(reason), 5);
      await assert.rejects(run, reason);
      await assert.rejects(queued, reason);
      assert.ok(floats(runtime, x, 1)[0]! < 20000);
      const small = program(runtime, [["fill", [4, 0, x]]]);
      await runtime.run(small.address, small.words);
      assert.equal(floats(runtime, x, 1)[0], 0);
      for (const address of [x, p.address, small.address]) runtime.free(address);
    });

    it("checks a program before it runs any of it", async () => {
      const x = runtime.alloc(64);
      const good = addOne(x, 16);
      const opcode = BigInt(runtime.kernels.indexOf("unary"));
      const cases: [RegExp, bigint[]][] = [
        [/instruction 1 of the program needs 2 words/, [0n]],
        [/instruction 1 has opcode 4095; known are 0 to \d+/, [4095n, 0n]],
        [/instruction 1, unary, has 6 arguments; it takes 5/, [opcode | (6n << 32n), 0n]],
        [/instruction 1 of the program needs 7 words/, [opcode | (5n << 32n), 0n, 1n]],
        [/instruction 1: address 5 is in no allocated memory/, [opcode | (5n << 32n), 0n, 1n, 0n, 0n, 5n, BigInt(x)]],
      ];
      for (const [message, tail] of cases) {
        const words = [...encodeInstruction(runtime, ...good), ...tail];
        const address = runtime.alloc(words.length * 8);
        runtime.bytes(address, words.length * 8).set(new Uint8Array(BigUint64Array.from(words).buffer));
        await assert.rejects(runtime.run(address, words.length), message);
        assert.throws(() => runtime.runSync(address, words.length), message);
        runtime.free(address);
      }
      assert.equal(floats(runtime, x, 1)[0], 0, "nothing ran");
      await assert.rejects(runtime.run(8, 4), /the program at address 8 is not inside one allocation/);
      await assert.rejects(runtime.run(x, 2 ** 40), /not inside one allocation/);
      await assert.rejects(runtime.run(-8, 4), RangeError);
      runtime.free(x);
    });

    it("refuses a workspace that is too small", () => {
      const x = runtime.alloc(4 * 64 * 64);
      const weight = [0, x, 0, 0, 0, 0, 0];
      const args = [64, 64, 64, x, 64, 0, ...weight, 64, 0, x, 64, 0, 0, 1, 0, 0, 0, 0, 0, 0];
      const need = runtime.workspace("matmul", args);
      assert.ok(need > 0);
      const p = program(runtime, [["matmul", args, 0]]);
      assert.throws(() => runtime.runSync(p.address, p.words), /instruction 0 needs \d+ bytes of workspace/);
      runtime.free(p.address);
      runtime.free(x);
    });

    it("names what is wrong with a call", () => {
      assert.throws(() => runtime.workspace("matmull", []), /no kernel "matmull"; the kernels are matmul, /);
      assert.throws(() => runtime.workspace("fill", [1]), /fill takes 3 arguments \(ii p.*got 1/);
      assert.throws(() => runtime.workspace("fill", [1.5, 0, 0]), /argument 0 of fill is 1\.5/);
      for (const threads of [0, 1.5, -1, 1e9]) assert.throws(() => runtime.setThreads(threads), RangeError);
    });

    it("gives one result for any number of threads, changed between thousands of short jobs", async () => {
      const n = 50000;
      const x = runtime.alloc(4 * n);
      const p = program(runtime, Array(300).fill(addOne(x, n)));
      let expected = 0;
      for (let round = 0; round < 20; round++) {
        runtime.setThreads(1 + (round % 2));
        if (round % 3) await runtime.run(p.address, p.words);
        else runtime.runSync(p.address, p.words);
        if (round % 5 === 0) await new Promise((resolve) => setTimeout(resolve, 8)); // lets the workers fall asleep
        expected += 300;
      }
      assert.ok(floats(runtime, x, n).every((value) => value === expected));
      runtime.setThreads(2);
      runtime.free(p.address);
      runtime.free(x);
    });

    it("gives everything back when disposed, even under a running program", async () => {
      const other = await make(2);
      const n = 100000;
      const x = other.alloc(4 * n);
      const view = other.bytes(x, 8);
      const p = program(other, Array(20000).fill(addOne(x, n)));
      const run = other.run(p.address, p.words);
      const queued = other.run(p.address, p.words);
      await new Promise((resolve) => setTimeout(resolve, 5));
      other.dispose();
      other.dispose();
      await assert.rejects(run, /cancelled before instruction \d+/);
      await assert.rejects(queued, /disposed/);
      assert.equal(other.memory().allocated, 0);
      if (other.kind === "native") assert.equal(view.length, 0, "the view was detached");
      assert.throws(() => other.alloc(8), /disposed/);
      await assert.rejects(other.run(p.address, p.words), /disposed/);
    });
  });
}
