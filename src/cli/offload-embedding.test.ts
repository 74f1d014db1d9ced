import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { here, makeWorkplace, type Workplace } from "./cli.test.support.ts";

let tied: Workplace;
let untied: Workplace;
before(async () => {
  tied = await makeWorkplace();
  untied = await makeWorkplace({ tie_word_embeddings: false });
});
after(() => {
  for (const place of [tied, untied]) place[Symbol.dispose]();
});

/** Bytes of the table: 448 tokens of 24 numbers in bfloat16. */
const TABLE = 448 * 24 * 2;

const plan = async (...more: string[]) => {
  const config = join(untied.model, "config.json");
  const args = ["plan", "--model", config, "--device", "cuda", "--memory", "1GB", "--max-seq-length", "64", ...more];
  const { code, stdout, stderr } = await here(...args);
  assert.equal(code, 0, stderr);
  return stdout;
};

test("plan counts the embeddings to the host's memory rather than to the GPU's", async () => {
  const inside = JSON.parse(await plan("--json", "--dtype", "bfloat16"));
  const outside = JSON.parse(await plan("--json", "--dtype", "bfloat16", "--offload-embedding"));
  assert.deepEqual([inside.host, outside.host], [0, TABLE]);
  assert.equal(inside.fixed.weights - outside.fixed.weights, TABLE);
  assert.equal(inside.modes[0].total - outside.modes[0].total, TABLE);
  assert.match(await plan("--dtype", "bfloat16", "--offload-embedding"), /host memory: input embeddings +21\.0 KiB/);
  assert.doesNotMatch(await plan(), /host memory/);
});

const settings = (place: Workplace): string => {
  const file = join(place.folder, "offload.yaml");
  const lines = [
    `model: ${place.model}`,
    `data: ${place.train}`,
    "lora: { r: 2 }",
    'training: { max_steps: 1, save_strategy: "no" }',
    `output: ${join(place.folder, "offloaded")}`,
    "threads: 1",
    "offload_embedding: true",
  ];
  writeFileSync(file, lines.join("\n"));
  return file;
};

test("trainings take it; where the memory is the host's anyway it changes nothing", async () => {
  const file = settings(untied);
  const started = async (...more: string[]) => {
    const { code, stdout, stderr } = await here("train", file, "--json", ...more);
    assert.equal(code, 0, stderr);
    return stdout.split("\n").map((line) => (line === "" ? {} : JSON.parse(line)));
  };
  const [on, off] = [await started(), await started("--no-offload-embedding")];
  assert.equal(on[0].weights, off[0].weights);
  assert.equal(on.find((row) => "loss" in row).loss, off.find((row) => "loss" in row).loss);
  const dry = await here("train", file, "--dry-run", "--json");
  assert.deepEqual([dry.code, JSON.parse(dry.stdout).host], [0, 0]);
  const args = ["generate", "--model", untied.model, "--threads", "1", "--prompt", "1+1=?", "--max-new-tokens", "2"];
  const generated = await here(...args, "--offload-embedding");
  assert.equal(generated.code, 0, generated.stderr);
});

test("where the head is the same table it is refused, with the place it was given at", async () => {
  const file = settings(tied);
  const why = "this model's output head is its embedding table.*leave offloadEmbedding out";
  const refused = async (place: string, ...args: string[]) => {
    const { code, stderr } = await here(...args);
    assert.match(stderr, new RegExp(`^unsloth: ${place}: ${why}`, "m"), args.join(" "));
    assert.equal(code, 2, stderr);
  };
  for (const command of ["train", "dpo", "reward"]) {
    const data = command === "train" ? [] : ["--data", pairs()];
    await refused(".*offload\\.yaml:7: offload_embedding", command, file, ...data, "--dry-run");
    await refused(".*offload\\.yaml:7: offload_embedding", command, file, ...data);
  }
  await refused(".*offload\\.yaml:7: offload_embedding", "plan", file);
  const flags = ["--model", tied.model, "--threads", "1", "--offload-embedding"];
  await refused("--offload-embedding", "plan", ...flags);
  await refused("--offload-embedding", "generate", ...flags, "--prompt", "1");
  await refused("--offload-embedding", "eval", ...flags, "--data", tied.test);
  const sweep = await here("sweep", file, "--grid", "r=2,4");
  assert.equal(sweep.code, 1);
  assert.match(sweep.stderr, /failed: .*offload\.yaml:7: offload_embedding: this model's/);
});

function pairs(): string {
  const file = join(tied.folder, "pairs.jsonl");
  writeFileSync(file, JSON.stringify({ prompt: "1+1=?", chosen: "2", rejected: "3" }));
  return file;
}

test("other settings that a model does not allow are placed, too", async () => {
  const args = ["train", settings(untied), "--full-finetuning", "--r", "2"];
  const { code, stderr } = await here(...args);
  assert.match(stderr, /offload\.yaml:7: offload_embedding: offloadEmbedding keeps.*fullFinetuning trains them/);
  assert.equal(code, 2);
  const dtype = ["plan", "--model", untied.model, "--full-finetuning", "--dtype", "bfloat16"];
  assert.match((await here(...dtype)).stderr, /--full-finetuning: fullFinetuning trains float32 weights/);
});
