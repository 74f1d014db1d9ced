import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { here } from "./cli.test.support.ts";
import { DPO } from "./methods/preference.ts";
import { givenSettings, methodSettings, trainingTable } from "./settings/train-settings.ts";

const folder = mkdtempSync(join(tmpdir(), "unsloth-flags-"));
after(() => rmSync(folder, { recursive: true }));

const fails = async (message: RegExp, ...args: readonly string[]): Promise<void> => {
  const { code, stderr } = await here(...args);
  assert.match(stderr, message, args.join(" "));
  assert.equal(code, 2, stderr);
};

test("flags of other libraries are refused with the reason that files get", async () => {
  const vllm = /^unsloth: --use[-_]vllm: useVllm true cannot be had: this library generates itself; leave it out$/m;
  await fails(vllm, "grpo", "--use-vllm");
  await fails(vllm, "grpo", "--use_vllm", "--max-steps", "3");
  await fails(vllm, "grpo", "--use-vllm=true");
  await fails(vllm, "sweep", "grpo", "--use-vllm", "--grid", "r=2,4");
  await fails(
    /--deepspeed: deepspeed "ds\.json" cannot be had: training runs in one process/,
    "train",
    "--deepspeed",
    "ds.json",
  );
  await fails(/--push-to-hub: pushToHub true cannot be had: .*trainer\.saveModel/, "plan", "--push-to-hub");
  await fails(
    /--lora-bias: loraBias: a bias on B is not supported yet; leave it out or set it to false/,
    "dpo",
    "--lora-bias",
  );
  await fails(/--sync-ref-model: syncRefModel true cannot be had: the reference stays/, "dpo", "--sync-ref-model");
});

test("flags that would change nothing are told so, others stay unknown", async () => {
  await fails(/--ddp-timeout changes nothing here: leave it out/, "train", "--ddp-timeout", "5");
  await fails(/--no-use-vllm changes nothing here: leave it out/, "grpo", "--no-use-vllm");
  await fails(/--use-vllm changes nothing here/, "grpo", "--use-vllm", "false");
  await fails(/unknown option '--use-vllm'/, "train", "--use-vllm");
  await fails(/unknown option '--learing-rate'[\s\S]*--learning-rate/, "train", "--learing-rate", "1");
  await fails(/unknown option '--use-vllm'/, "generate", "--prompt", "1", "--use-vllm");
  assert.equal((await here("grpo", "--use-vllm", "--help")).code, 0);
});

test("older names that TRL's configurations take are settings, not options that change nothing", () => {
  const file = join(folder, "names.yaml");
  writeFileSync(
    file,
    "max_seq_length: 99\nloss_types: ipo\nper_gpu_train_batch_size: 3\nactivation_checkpointing: true",
  );
  const table = trainingTable(DPO);
  const { method, args } = methodSettings(givenSettings(file, {}, table), DPO, table);
  assert.deepEqual(method, { maxLength: 99, lossType: "ipo" });
  assert.deepEqual([args.perDeviceTrainBatchSize, args.gradientCheckpointing], [3, true]);
});
