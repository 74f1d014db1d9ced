import assert from "node:assert/strict";
import { test } from "node:test";
import koffi from "koffi";
import { CudaError, CudaOutOfMemoryError } from "./errors.ts";
import { gpu, half, skip } from "./gpu.test.support.ts";
import { type HostDriver, HostMemory } from "./host-memory.ts";

const MIB = 2 ** 20;
const linux = process.platform === "linux" ? false : "pages are the system's business there";

/** A driver without a card: what was called, and the statuses that calls end with. */
function fakeDriver(statuses: Readonly<Record<string, number>> = {}) {
  const called: [name: string, ...args: unknown[]][] = [];
  const call = (name: string, ...args: unknown[]): number => {
    called.push([name, ...args.map((arg) => (ArrayBuffer.isView(arg) ? "cell" : arg))]);
    if (name === "cuMemHostAlloc") (args[0] as BigUint64Array)[0] = 4096n;
    return statuses[name] ?? 0;
  };
  const failure = (what: string, status: number): CudaError =>
    status === 2 ? new CudaOutOfMemoryError(what, status) : new CudaError(what, status);
  return { called, driver: { lost: false, try: call, call, failure } as unknown as HostDriver };
}

const view = (address: bigint, bytes: number): Uint8Array => new Uint8Array(koffi.view(address, bytes));

test("much memory is mapped in large pages, locked and given back", { skip: linux }, () => {
  const { driver, called } = fakeDriver();
  const memory = new HostMemory(driver);
  const bytes = 65 * MIB + 12_345;
  const address = memory.alloc(bytes, "copies");
  assert.equal(address % BigInt(2 * MIB), 0n);
  assert.deepEqual(called, [["cuMemHostRegister", address, 66 * MIB, 0]]);
  const mine = view(address, bytes);
  assert.ok(mine.every((byte) => byte === 0));
  mine.fill(7);
  const other = memory.alloc(64 * MIB, "copies");
  assert.ok(other + BigInt(64 * MIB) <= address || other >= address + BigInt(66 * MIB));
  view(other, 64 * MIB).fill(9);
  assert.ok(mine.every((byte) => byte === 7));
  called.length = 0;
  memory.free(address);
  memory.free(other);
  assert.deepEqual(called, [
    ["cuMemHostUnregister", address],
    ["cuMemHostUnregister", other],
  ]);
});

test("little memory is the driver's, and much where it locks no other or kernels read it", () => {
  for (const [bytes, use, statuses] of [
    [10, "copies", {}],
    [64 * MIB, "copies", { cuMemHostRegister: 801 }],
    [64 * MIB, "kernels", {}],
  ] as const) {
    const { driver, called } = fakeDriver(statuses);
    const memory = new HostMemory(driver);
    assert.equal(memory.alloc(bytes, use), 4096n);
    assert.deepEqual(called.at(-1), ["cuMemHostAlloc", "cell", Math.max(bytes, 64), 0]);
    memory.free(4096n);
    assert.deepEqual(called.at(-1), ["cuMemFreeHost", 4096n]);
  }
});

test("a host without room says what helps", () => {
  const { driver } = fakeDriver({ cuMemHostRegister: 2, cuMemHostAlloc: 2 });
  assert.throws(() => new HostMemory(driver).alloc(3 * 2 ** 30, "copies"), {
    name: "CudaOutOfMemoryError",
    message: /no room for 3\.00 GiB of page-locked memory.*activationOffloading: false/,
  });
  const broken = fakeDriver({ cuMemHostRegister: 1, cuMemHostAlloc: 1 });
  assert.throws(() => new HostMemory(broken.driver).alloc(MIB, "copies"), { name: "CudaError" });
});

test("mapped memory holds what the card copies there and back (CUDA)", { skip }, () => {
  const { device } = gpu(half);
  const bytes = 80 * MIB;
  const [host, card] = [device.pinned(bytes), device.alloc(bytes)];
  for (let i = 0; i < bytes; i += 997) host.bytes[i] = i % 251;
  const expected = host.bytes.slice();
  device.driver.call("cuMemcpyHtoDAsync", card, host.address, bytes, device.stream);
  device.synchronize();
  host.bytes.fill(0);
  device.driver.call("cuMemcpyDtoHAsync", host.address, card, bytes, device.stream);
  device.synchronize();
  assert.ok(Buffer.from(host.bytes).equals(expected));
  device.free(card);
  device.freePinned(host.address);
});
