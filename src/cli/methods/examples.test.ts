import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { here } from "../cli.test.support.ts";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const examples = readdirSync(join(root, "examples", "cli")).filter((name) => name.endsWith(".yaml"));
const folder = mkdtempSync(join(tmpdir(), "unsloth-examples-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Paths in the files are from the repository's folder. */
async function inRoot(...args: readonly string[]): ReturnType<typeof here> {
  const before = process.cwd();
  process.chdir(root);
  try {
    return await here(...args, "--threads", "1");
  } finally {
    process.chdir(before);
  }
}

test("there is an example for every method", () => {
  const methods = ["dpo", "grpo", "kto", "orpo", "ppo", "reward", "simpo"];
  assert.deepEqual(
    examples.sort(),
    methods.map((name) => `${name}.yaml`),
  );
});

for (const name of examples) {
  const method = name === "simpo.yaml" ? "cpo" : name.replace(".yaml", "");
  test(`examples/cli/${name}: a dry run, and the first step`, async () => {
    const file = `examples/cli/${name}`;
    const planned = await inRoot(method, file, "--dry-run");
    assert.equal(planned.code, 0, planned.stderr);
    assert.match(planned.stdout, /dry run: nothing was trained/);
    const output = join(folder, method);
    const sizes = ["--max-steps", "1", "--per-device-train-batch-size", "8", "--save-strategy", "no", "--json"];
    const trained = await inRoot(method, file, "--output", output, ...sizes);
    assert.equal(trained.code, 0, trained.stderr);
    assert.ok(existsSync(join(output, "adapter_model.safetensors")));
  });
}
