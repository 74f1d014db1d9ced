import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { makeWorkplace, unsloth } from "./cli.test.support.ts";

test("unsloth alone checks the installation; what is required and missing exits with 1", async () => {
  const [alone, required] = await Promise.all([unsloth([]), unsloth(["--require", "qlora,cuda", "--json"])]);
  assert.equal(alone.code, 0, alone.stdout + alone.stderr);
  assert.match(alone.stdout, /^Unsloth successfully installed!\nunsloth \d/);
  assert.match(alone.stdout, /4-bit QLoRA supported/);
  assert.equal(required.code, 1);
  const report = JSON.parse(required.stdout);
  assert.deepEqual([report.ok, report.required, report.failed], [true, ["qlora", "cuda"], ["cuda"]]);
});

test("train from a file, then chat over a pipe, as processes", async () => {
  using place = await makeWorkplace();
  const config = join(place.folder, "config.yaml");
  const output = join(place.folder, "adapter");
  writeFileSync(config, `model: ${place.model}\ndata: ${place.train}\nmax_steps: 2\noutput: ${output}\n`);
  const trained = await unsloth(["train", config, "--json"]);
  assert.equal(trained.code, 0, trained.stderr);
  const events = trained.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line).event);
  assert.deepEqual(
    events.filter((event, i) => event !== events[i - 1]),
    ["start", "log", "end"],
  );
  const [chat, debug] = await Promise.all([
    unsloth(["chat", "--adapter", output, "--max-new-tokens", "2"], { input: "hello\n/system brief\nhello\n" }),
    unsloth(["eval", "--adapter", output, "--data", "./none"], { env: { UNSLOTH_DEBUG: "1" } }),
  ]);
  assert.equal(chat.code, 0, chat.stderr);
  assert.match(chat.stderr, /^(device: .*\n)?\(system: brief\)\n$/);
  assert.doesNotMatch(chat.stdout, />/, "no prompt where there is no terminal");
  assert.ok(chat.stdout.match(/\n/g)!.length >= 2, "two answers");
  assert.equal(debug.code, 1);
  assert.match(debug.stderr, /data set: found no such file[\s\S]*\n\s+at /, "the stack, for us");
});
