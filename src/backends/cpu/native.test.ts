import assert from "node:assert/strict";
import { it } from "node:test";
import { Worker } from "node:worker_threads";
import { loadNative } from "./native.ts";
import { encodeInstruction } from "./runtime.ts";

const file = process.env.UNSLOTH_TEST_ADDON;

it("views memory beyond 4 GiB, and detaches the views when it is freed", () => {
  using runtime = loadNative({ file, threads: 1 });
  const size = 5 * 2 ** 30;
  const address = runtime.alloc(size);
  const end = runtime.bytes(address + size - 4, 4);
  end.set([1, 2, 3, 4]);
  const across = runtime.bytes(address + 2 ** 31 - 2, 4);
  across.fill(9);
  assert.deepEqual([...runtime.bytes(address + size - 3, 2)], [2, 3]);
  assert.deepEqual([...runtime.bytes(address + 2 ** 31, 3)], [9, 9, 0]);
  assert.equal(runtime.bytes(address, 2 ** 30).length, 2 ** 30);
  runtime.free(address);
  assert.equal(end.length, 0);
  assert.equal(across.length, 0);
});

it("runs every instruction set this processor has", () => {
  const { isas } = loadNative({ file });
  assert.equal(isas.at(-1), "base");
  for (const isa of isas) {
    using runtime = loadNative({ file, isa });
    const x = runtime.alloc(64);
    const words = encodeInstruction(runtime, "fill", [64, 1, x]);
    const program = runtime.alloc(words.byteLength);
    runtime.bytes(program, words.byteLength).set(new Uint8Array(words.buffer));
    runtime.runSync(program, words.length);
    assert.deepEqual([...runtime.bytes(x, 64)], Array(64).fill(1));
  }
  assert.throws(
    () => loadNative({ file, isa: "avx3" }),
    /instruction set "avx3" is not available here; available are .*base/,
  );
});

it("says where it looked when there is no addon", () => {
  assert.throws(() => loadNative({ file: "/nowhere/unsloth_cpu.node" }), /nowhere/);
});

it("is used by several threads of the process at once, and outlives them", async () => {
  const runtime = loadNative({ file, threads: 2 });
  const addon = file ?? new URL("../../../build/native/unsloth_cpu.node", import.meta.url).pathname;
  const opcode = runtime.kernels.indexOf("fill");
  const body = `
    const { workerData, parentPort } = require("node:worker_threads");
    const addon = require(workerData.addon);
    const x = addon.alloc(1 << 20), words = new BigUint64Array(5), program = addon.alloc(40);
    const view = new BigUint64Array(addon.view(program, 40));
    (async () => {
      for (let i = 0; i < 200; i++) {
        view.set([BigInt(workerData.opcode) | 3n << 32n, 0n, 1n << 20n, BigInt(i % 256), BigInt(x)]);
        await addon.run(0, 2, program, 5, new ArrayBuffer(24));
        const bytes = new Uint8Array(addon.view(x, 1 << 20));
        if (bytes[0] !== i % 256 || bytes.at(-1) !== i % 256) throw new Error("wrong at " + i);
      }
      parentPort.postMessage("right");
    })();`;
  const results = [1, 2, 3].map(
    () =>
      new Promise((resolve, reject) => {
        const worker = new Worker(body, { eval: true, execArgv: [], workerData: { addon, opcode } });
        worker.once("message", resolve);
        worker.once("error", reject);
      }),
  );
  assert.deepEqual(await Promise.all(results), ["right", "right", "right"]);
  runtime.dispose();
});
