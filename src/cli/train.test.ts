import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { here, makeWorkplace, type Workplace } from "./cli.test.support.ts";

let place: Workplace;
let config: string;
before(async () => {
  place = await makeWorkplace();
  config = join(place.folder, "config.yaml");
  writeFileSync(
    config,
    `model: ${place.model}
data: { train: ${place.train}, eval: ${place.test} }
lora: { r: 4, lora_alpha: 8 }
training:
  max_steps: 4
  learning_rate: 1e-2
  gradient_accumulation_steps: 2
  save_strategy: "no"
threads: 1
`,
  );
});
after(() => place[Symbol.dispose]());

const rowsOf = (text: string): Record<string, unknown>[] =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

test("train --json: a line a log row, the loss falls, an adapter with its tokenizer is written", async () => {
  const output = join(place.folder, "adapter");
  const { code, stdout, stderr } = await here("train", config, "--json", "--output", output);
  assert.equal(code, 0, stderr);
  const rows = rowsOf(stdout);
  assert.deepEqual([rows[0]!.event, rows[0]!.maxSteps, rows.at(-1)!.event], ["start", 4, "end"]);
  const losses = rows.filter((row) => row.event === "log" && "loss" in row);
  assert.deepEqual(
    losses.map((row) => row.step),
    [1, 2, 3, 4],
  );
  assert.equal(losses[0]!.learning_rate, 1e-2);
  assert.ok(Number(losses[3]!.loss) < Number(losses[0]!.loss));
  assert.ok(Number(rows.at(-1)!.eval_loss) < Number(rows.find((row) => "eval_loss" in row)!.eval_loss));
  for (const name of ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"]) {
    assert.ok(existsSync(join(output, name)), name);
  }
  const { r } = JSON.parse(readFileSync(join(output, "adapter_config.json"), "utf8")) as { r: number };
  assert.equal(r, 4);

  // It is used as the training left it: the loss that eval finds is the last one.
  const evaluated = await here(
    "eval",
    "--adapter",
    output,
    "--data",
    place.test,
    "--json",
    "--load-in-4bit",
    "--threads",
    "1",
  );
  assert.equal(evaluated.code, 0, evaluated.stderr);
  const { loss, perplexity } = JSON.parse(evaluated.stdout) as { loss: number; perplexity: number };
  assert.ok(Math.abs(loss - Number(rows.at(-1)!.eval_loss)) < 1e-5, `${loss} ${rows.at(-1)!.eval_loss}`);
  assert.ok(Math.abs(perplexity - Math.exp(loss)) < 1e-9);
});

test("flags win over the file; batch 1 × accumulation 4 is batch 4 × accumulation 1", async () => {
  const losses = async (batch: number, accumulation: number, ...more: string[]) => {
    const sizes = ["--batch-size", String(batch), "--gradient_accumulation_steps", String(accumulation)];
    const args = ["train", config, "--json", "--output", join(place.folder, "other"), "--maxSteps=2", "--r", "2"];
    const { code, stdout, stderr } = await here(...args, ...sizes, ...more);
    assert.equal(code, 0, stderr);
    return rowsOf(stdout).flatMap((row) => (typeof row.loss === "number" ? [row.loss] : []));
  };
  const [one, four, packed] = [
    await losses(1, 4),
    await losses(4, 1),
    await losses(4, 1, "--packing", "--max-seq-length", "50"),
  ];
  assert.equal(one.length, 2);
  four.forEach((loss, i) => assert.ok(Math.abs(loss - one[i]!) < 1e-4, `${one} ${four}`));
  // Rows of 50 tokens hold one sequence each: packing them changes nothing.
  packed.forEach((loss, i) => assert.ok(Math.abs(loss - four[i]!) < 1e-4, `${four} ${packed}`));
});

test("stopped after a checkpoint, --resume ends where an uninterrupted training does", async () => {
  const adapter = (name: string) => readFileSync(join(place.folder, name, "adapter_model.safetensors"));
  const train = async (name: string, ...more: string[]) => {
    const output = join(place.folder, name);
    const args = ["--save-strategy", "steps", "--save-steps", "2", "--log-level", "error", "--output", output];
    const { code, stderr } = await here("train", config, ...args, ...more);
    assert.equal(code, 0, stderr);
  };
  await train("whole");
  // The first half of the same training, as an interruption leaves it.
  await train("half", "--max-steps", "4");
  rmSync(join(place.folder, "half", "checkpoint-4"), { recursive: true });
  writeFileSync(join(place.folder, "half", "adapter_model.safetensors"), "");
  await train("half", "--resume");
  assert.deepEqual(adapter("half"), adapter("whole"));
});

test("--dry-run plans what the training then needs, and trains nothing", async () => {
  const output = join(place.folder, "dry");
  const planned = await here("train", config, "--dry-run", "--json", "--output", output);
  assert.equal(planned.code, 0, planned.stderr);
  assert.equal(existsSync(output), false);
  const plan = JSON.parse(planned.stdout);
  assert.deepEqual([plan.maxSteps, plan.microbatchesPerEpoch, plan.stepsPerEpoch, plan.evalRows], [4, 12, 6, 8]);
  const real = rowsOf((await here("train", config, "--json", "--max-steps", "1", "--output", output)).stdout)[0]!;
  const { weights, adapter, gradients, optimizer } = plan.fixed;
  assert.deepEqual(
    [weights, adapter, gradients, optimizer],
    [real.weights, real.adapter, real.gradients, real.optimizer],
  );
  assert.equal(plan.modes[2].activations, real.activations);
  const text = await here("train", config, "--dry-run");
  assert.match(text.stdout, /4 steps \(1 epochs begun\), 0 of them warm-up; 8 rows held out/);
  assert.match(text.stdout, /together +\d/);
});

test("what contradicts itself is a usage error before anything is loaded", async () => {
  const full = await here("train", config, "--full-finetuning", "--r", "4");
  assert.equal(full.code, 2);
  assert.match(full.stderr, /fullFinetuning trains all weights: leave (r|loraAlpha) out/);
  const both = await here("train", config, "--fp16", "--bf16");
  assert.equal(both.code, 2);
  assert.match(both.stderr, /fp16 and bf16 cannot both be true/);
});

test("an adapter is trained on with --adapter, its own configuration kept", async () => {
  const [first, second] = [join(place.folder, "first"), join(place.folder, "second")];
  const common = ["train", "--model", place.model, "--data", place.train, "--max-steps", "1", "--log-level", "error"];
  assert.equal((await here(...common, "--r", "3", "--output", first)).code, 0);
  const again = await here(...common, "--adapter", first, "--output", second);
  assert.equal(again.code, 0, again.stderr);
  assert.equal(JSON.parse(readFileSync(join(second, "adapter_config.json"), "utf8")).r, 3);
  const clash = await here(...common, "--adapter", first, "--r", "8");
  assert.match(clash.stderr, /has its own configuration: leave r out/);
});

test("plan: fits or not by --memory, with the exit code; --svg draws, --print lists, config.json is enough", async () => {
  const model = join(place.model, "config.json");
  const svg = join(place.folder, "memory.svg");
  const fits = await here("plan", "--model", model, "--memory", "1GB", "--svg", svg, "--max-seq-length", "64");
  assert.equal(fits.code, 0, fits.stderr);
  assert.match(
    fits.stdout,
    /✅ fits in 1\.0 GiB; longest sequence that fits with a batch of 2: 256 tokens, the model's limit/,
  );
  assert.match(readFileSync(svg, "utf8"), /^<svg/);
  const tight = await here("plan", config, "--memory", "100K", "--json");
  assert.equal(tight.code, 1);
  assert.deepEqual([JSON.parse(tight.stdout).fits, JSON.parse(tight.stdout).longest], [false, 0]);
  assert.match((await here("plan", config, "--memory", "100K")).stdout, /❌ does not fit in 100\.0 KiB/);
  assert.match(
    (await here("plan", config, "--print", "--max-seq-length", "64")).stdout,
    /^program train step, 128 tokens/,
  );
  assert.match(
    (await here("plan", config, "--memory", "lots")).stderr,
    /--memory needs a size such as 24GB, found "lots"/,
  );
});

test("--streaming: rows tokenised into a file train as rows in memory do, and are found again", async () => {
  const before = process.env.XDG_CACHE_HOME;
  process.env.XDG_CACHE_HOME = join(place.folder, "cache");
  const held = join(place.folder, "held.yaml");
  writeFileSync(held, readFileSync(config, "utf8").replace(/, eval: [^}]*/, ", eval_size: 0.25"));
  try {
    const losses = async (...more: string[]) => {
      const args = ["train", held, "--json", "--output", join(place.folder, "streamed"), ...more];
      const { code, stdout, stderr } = await here(...args);
      assert.equal(code, 0, stderr);
      const rows = rowsOf(stdout);
      assert.equal(rows[0]!.rows, 18, "a quarter of 24 rows is held out");
      return rows.flatMap((row) => (typeof row.loss === "number" ? [row.loss, row.eval_loss] : []));
    };
    const inMemory = await losses();
    assert.deepEqual(await losses("--streaming"), inMemory);
    const { code, stderr } = await here("train", held, "--streaming", "--output", join(place.folder, "streamed"));
    assert.equal(code, 0);
    assert.match(stderr, /24 rows found tokenised in .*cache.*prepared/);
    const dry = await here("train", held, "--streaming", "--dry-run");
    assert.match(dry.stdout, /18 rows, .*\n/);
  } finally {
    if (before === undefined) delete process.env.XDG_CACHE_HOME;
    else process.env.XDG_CACHE_HOME = before;
  }
});

test("train --peft-type ADALORA prunes ranks, draws them, and its adapter is used by the other commands", async () => {
  const output = join(place.folder, "adalora");
  const yaml = join(place.folder, "adalora.yaml");
  writeFileSync(
    yaml,
    readFileSync(config, "utf8").replace("r: 4, lora_alpha: 8", "init_r: 3, target_r: 2, lora_alpha: 8"),
  );
  const { code, stdout, stderr } = await here("train", yaml, "--peft-type", "ADALORA", "--json", "--output", output);
  assert.equal(code, 0, stderr);
  const allocations = rowsOf(stdout).filter((row) => "adalora_budget" in row);
  assert.ok(allocations.length > 0);
  const { peft_type, rank_pattern, total_step } = JSON.parse(readFileSync(join(output, "adapter_config.json"), "utf8"));
  assert.equal(peft_type, "ADALORA");
  assert.equal(total_step, 4);
  assert.ok(Object.keys(rank_pattern).length > 0);
  assert.ok(existsSync(join(output, "adalora_ranks.svg")));
  const evaluated = await here("eval", "--adapter", output, "--data", place.test, "--json");
  assert.equal(evaluated.code, 0, evaluated.stderr);
  const merged = await here("merge", "--adapter", output, "--output", join(place.folder, "merged"));
  assert.equal(merged.code, 0, merged.stderr);
});
