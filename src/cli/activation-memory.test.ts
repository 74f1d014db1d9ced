import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { here, makeWorkplace, type Workplace } from "./cli.test.support.ts";

let place: Workplace;
before(async () => {
  place = await makeWorkplace();
});
after(() => place[Symbol.dispose]());

interface Mode {
  readonly useGradientCheckpointing: string;
  readonly activations: number;
  readonly checkpointing: { readonly offloaded: { readonly count: number; readonly bytes: number } };
}

/** Everything given up that can be: what is moved to host memory is as much as may be. */
const LEAST = ["--use-gradient-checkpointing", "true", "--activation-offloading"];

const train = async (...more: readonly string[]): Promise<string> => {
  const fixed = ["--model", place.model, "--data", place.train, "--threads", "1", "--r", "2", "--max-steps", "1"];
  const output = ["--save-strategy", "no", "--output", join(place.folder, "out"), "--log-level", "error"];
  const { code, stdout, stderr } = await here("train", ...fixed, ...output, ...more);
  assert.equal(code, 0, stderr);
  return more.includes("--json") || more.includes("--dry-run") ? stdout : stderr;
};

test("activationHostMemory bounds what offloading takes, in the dry run as in the training", async () => {
  const planned = async (...more: readonly string[]): Promise<Mode> => {
    const { modes } = JSON.parse(await train("--dry-run", "--json", ...more)) as { readonly modes: readonly Mode[] };
    return modes.find(({ useGradientCheckpointing }) => useGradientCheckpointing === "true")!;
  };
  const [none, all] = [await planned(), await planned(...LEAST)];
  const { bytes } = all.checkpointing.offloaded;
  assert.deepEqual([none.checkpointing.offloaded.bytes, bytes > 0], [0, true]);
  const limit = ["--activation-host-memory", String(bytes - 1)];
  const bounded = await planned(...LEAST, ...limit);
  const few = bounded.checkpointing.offloaded.bytes;
  assert.ok(few > 0 && few < bytes, `${few} of ${bytes}`);
  const start = JSON.parse((await train("--json", ...LEAST, ...limit)).split("\n")[0]!);
  assert.equal(start.activations, bounded.activations);
  assert.ok(start.host >= few && start.host < bytes, `${start.host} of ${few}`);
  assert.match(await train(...LEAST, ...limit), /memory: .* tokens\); in host memory: /);
  assert.doesNotMatch(await train(), /in host memory/);
  assert.match(await train(...LEAST, "--dry-run"), /recomputed, \d+ in host memory \(/);
});

test("plan offloads as the settings say", async () => {
  const planned = async (...more: readonly string[]) => {
    const args = ["plan", "--model", place.model, "--threads", "1", "--r", "2", "--memory", "1GB", "--json", ...more];
    const { code, stdout, stderr } = await here(...args);
    assert.equal(code, 0, stderr);
    const { modes } = JSON.parse(stdout) as { readonly modes: readonly Mode[] };
    return modes.find(({ useGradientCheckpointing }) => useGradientCheckpointing === "true")!;
  };
  const [kept, moved] = [await planned(), await planned("--activation-offloading")];
  assert.ok(moved.activations < kept.activations && kept.checkpointing.offloaded.count === 0);
  const { bytes } = moved.checkpointing.offloaded;
  const bounded = await planned("--activation-offloading", "--activation-host-memory", String(bytes - 1));
  assert.ok(bounded.checkpointing.offloaded.bytes > 0 && bounded.checkpointing.offloaded.bytes < bytes);
});

test("so it does for preferences and reward models", async () => {
  const data = join(place.folder, "pairs.jsonl");
  writeFileSync(data, JSON.stringify({ prompt: "1+1=?", chosen: " 2, which is even", rejected: " 3, which is odd" }));
  for (const method of ["dpo", "reward"]) {
    const offloaded = async (...more: readonly string[]): Promise<number> => {
      const fixed = [
        "--model",
        place.model,
        "--data",
        data,
        "--threads",
        "1",
        "--r",
        "2",
        ...LEAST,
        "--dry-run",
        "--json",
      ];
      const { code, stdout, stderr } = await here(method, ...fixed, ...more);
      assert.equal(code, 0, stderr);
      const [modes] = Object.values(
        (JSON.parse(stdout) as { readonly update: Record<string, readonly Mode[]> }).update,
      );
      return modes!.find(({ useGradientCheckpointing }) => useGradientCheckpointing === "true")!.checkpointing.offloaded
        .bytes;
    };
    const all = await offloaded();
    const few = await offloaded("--activation-host-memory", String(all - 1));
    assert.ok(few > 0 && few < all, `${method}: ${few} of ${all}`);
  }
});

test("activationHostMemory is a positive number of bytes", async () => {
  for (const value of ["0", "1.5", "much"]) {
    const { code, stderr } = await here("train", "--activation-host-memory", value);
    assert.equal(code, 2);
    assert.match(stderr, /--activation-host-memory/);
  }
});
