import assert from "node:assert/strict";
import { test } from "node:test";
import type { Node, Value } from "../../graph/graph.ts";
import { lowerUpdates, updatesFrom } from "./lower-updates.ts";
import type { Lowering } from "./lowering.ts";

const names = new Map<string, Value>();
const value = (name: string): Value => {
  const found = names.get(name) ?? ({ id: names.size, name, shape: [300], bytes: 1200 } as unknown as Value);
  names.set(name, found);
  return found;
};
/** "adamw p g m v h f" or "clear g" */
const node = (text: string): Node => {
  const [op, ...inputs] = text.split(" ");
  return { op: { name: op }, inputs: inputs.map(value), attrs: { decay: true } } as unknown as Node;
};
const nodes = (...texts: string[]): Node[] => texts.map(node);

test("updates of different tensors and clears after them are one run", () => {
  const steps = nodes("add x", "adamw p g m v h f", "clear g", "adamw p2 g2 m2 v2 h f", "clear g2", "add x");
  assert.equal(updatesFrom(steps, 0), 0);
  assert.equal(updatesFrom(steps, 1), 5);
  // A gradient read after it was cleared, and a tensor updated twice, begin a new one.
  assert.equal(updatesFrom(nodes("clear g", "adamw p g m v h f"), 0), 1);
  assert.equal(updatesFrom(nodes("adamw p g m v h f", "adamw p g2 m v h f"), 0), 1);
});

test("runs become few launches: updates that share their numbers, then clears, 56 tensors each", () => {
  const launched: { kernel: string; grid: number; args: readonly unknown[] }[] = [];
  const to = {
    multiprocessors: 132,
    address: (v: Value) => v.id,
    launch: ({ kernel, grid, args }: (typeof launched)[0] & { grid: number[] }) =>
      launched.push({ kernel, grid: (grid as unknown as number[])[0]!, args }),
  } as unknown as Lowering;
  const steps = Array.from({ length: 60 }, (_, i) => [
    `adamw p${i} g${i} m${i} v${i} ${i === 7 ? "other" : "h"} f`,
    `clear g${i}`,
  ]).flat();
  lowerUpdates(nodes(...steps), to);
  assert.deepEqual(
    launched.map(({ kernel, grid }) => [kernel, grid]),
    // 300 elements are two blocks of 256.
    [
      ["adamw", 112],
      ["adamw", 6],
      ["adamw", 2],
      ["clear", 112],
      ["clear", 8],
    ],
  );
  // Four columns of addresses, sizes, first blocks, their counts; hyper, factor, decay.
  assert.equal(launched[0]!.args.length, 6 * 56 + 2 + 3);
});
