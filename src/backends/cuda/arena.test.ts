import assert from "node:assert/strict";
import { test } from "node:test";
import type { Program } from "../../graph/program.ts";
import { Arena } from "./arena.ts";
import type { CudaDevice } from "./device.ts";
import { CudaOutOfMemoryError } from "./errors.ts";

/** A card of `bytes` bytes that keeps account of them. */
function card(bytes: number) {
  const sizes = new Map<number, number>();
  let next = 1;
  const used = (): number => [...sizes.values()].reduce((sum, size) => sum + size, 0);
  const device = {
    alloc(size: number) {
      if (used() + size > bytes) throw new CudaOutOfMemoryError("full", 2);
      sizes.set(next, size);
      return next++;
    },
    free: (address: number) => sizes.delete(address),
    allocPinned: () => 1n,
    freePinned: () => undefined,
    view: (_: bigint, size: number) => new Uint8Array(size),
  };
  return { device: device as unknown as CudaDevice, used };
}

const program = (arenaBytes: number): Program =>
  ({ arenaBytes, hostBytes: 0, inputs: new Map(), outputs: new Map() }) as unknown as Program;

test("a program that does not fit fails and leaves room for those that do", async () => {
  const { device, used } = card(100);
  const arena = new Arena(device);
  const run = (bytes: number) => arena.exclusive(() => Promise.resolve(arena.bytes), program(bytes));
  assert.equal(await run(60), 60);
  const generation = arena.generation;
  await assert.rejects(run(200), CudaOutOfMemoryError);
  assert.equal(await run(50), 50);
  assert.ok(arena.generation > generation, "programs learn that the arena moved");
  assert.equal(used(), 50);
  // One that was only compiled does not keep others from running.
  arena.reserve(program(1000));
  assert.equal(await run(70), 70);
  arena.dispose();
  assert.equal(used(), 0);
});

test("runs wait for one another, also for one that failed", async () => {
  const arena = new Arena(card(100).device);
  const order: string[] = [];
  const body = (name: string, fails: boolean) => async () => {
    order.push(`${name} begins`);
    await new Promise((resolve) => setImmediate(resolve));
    order.push(`${name} ends`);
    if (fails) throw new Error(name);
  };
  const runs = [arena.exclusive(body("a", true)), arena.exclusive(body("b", false))];
  const [a, b] = await Promise.allSettled(runs);
  assert.deepEqual([a!.status, b!.status], ["rejected", "fulfilled"]);
  assert.deepEqual(order, ["a begins", "a ends", "b begins", "b ends"]);
});
