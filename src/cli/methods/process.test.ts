import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { extname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { makeWorkplace, type Ran, unsloth, type Workplace } from "../cli.test.support.ts";

let place: Workplace;
let config: string;
before(async () => {
  place = await makeWorkplace();
  config = join(place.folder, "grpo.yaml");
  const data = join(place.folder, "prompts.jsonl");
  const rows = Array.from({ length: 8 }, (_, i) => JSON.stringify({ prompt: `${i}+1=`, answer: i + 1 }));
  writeFileSync(data, rows.join("\n"));
  writeFileSync(
    config,
    `model: ${place.model}
data: ${data}
grpo: { num_generations: 2, max_completion_length: 4, reward_funcs: number_match }
training: { max_steps: 12, per_device_train_batch_size: 4, save_steps: 4, learning_rate: 1e-3 }
lora: { r: 8 }
threads: 1
`,
  );
});
after(() => place[Symbol.dispose]());

const extension = extname(import.meta.url);
const main = [
  ...(extension === ".ts" ? ["--import", "tsx"] : []),
  fileURLToPath(new URL(`../main${extension}`, import.meta.url)),
];

/** Runs a command whose standard error is watched. */
function watched(command: readonly string[], onError: (text: string, kill: () => void) => void): Promise<Ran> {
  const [program, ...args] = command;
  const child = spawn(program!, args);
  let stderr = "";
  child.stderr.on("data", (piece) => {
    stderr += piece;
    onError(stderr, () => child.kill("SIGINT"));
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout: "", stderr }));
  });
}

test("grpo stopped with Ctrl-C exits with 130, and with --resume ends where it would have", async () => {
  const adapter = (name: string) => readFileSync(join(place.folder, name, "adapter_model.safetensors"));
  const output = join(place.folder, "stopped");
  const whole = unsloth(["grpo", config, "--output", join(place.folder, "whole")]);
  let told = false;
  const stopped = await watched([process.execPath, ...main, "grpo", config, "--output", output], (text, kill) => {
    // A second signal would not wait for the step.
    if (!told && text.includes("'loss'")) kill();
    told ||= text.includes("'loss'");
  });
  assert.equal(stopped.code, 130, stopped.stderr);
  const [, step] = /interrupted after step (\d+); the same command with --resume goes on from /.exec(stopped.stderr)!;
  assert.ok(existsSync(join(output, `checkpoint-${step}`, "trainer_state.json")));
  const resumed = await unsloth(["grpo", config, "--output", output, "--resume"]);
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.equal((await whole).code, 0);
  assert.deepEqual(adapter("stopped"), adapter("whole"));
});

test("a full disk is an error that names the file; no half checkpoint is left", {
  skip: process.platform === "win32",
}, async () => {
  const output = join(place.folder, "full");
  // In units of 512 bytes: an adapter's file is larger.
  const command = `ulimit -f 20; exec "$@"`;
  const args = [process.execPath, ...main, "grpo", config, "--output", output];
  const { code, stderr } = await watched(["sh", "-c", command, "sh", ...args], () => undefined);
  assert.equal(code, 1, stderr);
  assert.match(stderr, /unsloth: .*full\/.*cannot be written: EFBIG/);
  assert.deepEqual(existsSync(output) ? readdirSync(output).filter((name) => name.startsWith("checkpoint")) : [], []);
});
