// npm run bench:dpo [-- --python PATH]: DPO with LoRA r 16 on the CPU, this project beside TRL + peft on PyTorch, in turn.
// Random SmolLM2-135M-shaped model, pairs of answers of equal length; Python needs tests/oracle/requirements.txt.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values: o } = parseArgs({
  options: {
    python: { type: "string", default: process.env.PYTHON ?? "python3" },
    threads: { type: "string", default: "2" },
    steps: { type: "string", default: "3" },
    batch: { type: "string", default: "4" },
    length: { type: "string", default: "256" },
    rounds: { type: "string", default: "1" },
    json: { type: "string" },
  },
});
const here = fileURLToPath(new URL(".", import.meta.url));
const tokenizer = join(here, "..", "models", "tiny-math");
const folder = join(tmpdir(), "unsloth-bench-smollm2-135m");
const { createRandomModel, openCpuBackend, saveModel, Tokenizer } = await import("../dist/index.js");
const { SMOLLM2_135M } = await import("./shapes.mjs");

if (!existsSync(join(folder, "model.safetensors"))) {
  mkdirSync(folder, { recursive: true });
  const backend = await openCpuBackend({});
  const model = await createRandomModel({ config: SMOLLM2_135M, backend, dtype: "bfloat16", seed: 1 });
  await saveModel(model, folder, {});
  backend.dispose();
}

// Texts of about `length` tokens, half of them the prompt's; the answers differ.
const words = await Tokenizer.fromFolder(tokenizer);
const text = (seed, tokens) => {
  let all = "";
  for (let i = 0; words.encode(all, { addSpecialTokens: false }).length < tokens; i++)
    all += ` ${(i * 7919 + seed * 104729) % 97}`;
  return all;
};
const half = Number(o.length) / 2;
const rows = Array.from({ length: Number(o.batch) * 2 }, (_, i) => ({
  prompt: text(3 * i, half),
  chosen: text(3 * i + 1, half),
  rejected: text(3 * i + 2, half),
}));
const file = join(tmpdir(), "unsloth-bench-dpo.jsonl");
writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));

const common = [
  "--model",
  folder,
  "--tokenizer",
  tokenizer,
  "--rows",
  file,
  "--threads",
  o.threads,
  "--steps",
  o.steps,
  "--batch",
  o.batch,
];
function measure(command, args) {
  const run = spawnSync(command, [...args, "--t0", String(Date.now() / 1000)], { encoding: "utf8" });
  if (run.status !== 0) return { error: (run.stderr || String(run.error)).trim().split("\n").slice(-3).join(" ") };
  return JSON.parse(run.stdout.trim().split("\n").at(-1));
}
const contenders = {
  "this project": () => measure(process.execPath, [join(here, "ours-dpo.mjs"), ...common]),
  "this project, NF4": () => measure(process.execPath, [join(here, "ours-dpo.mjs"), ...common, "--load-in-4bit"]),
  "TRL + peft": () => measure(o.python, [join(here, "trl_dpo.py"), ...common]),
  "TRL + peft, gradient checkpointing (TRL's default)": () =>
    measure(o.python, [join(here, "trl_dpo.py"), ...common, "--checkpointing"]),
};
const results = Object.fromEntries(Object.keys(contenders).map((name) => [name, []]));
for (let round = 0; round < Number(o.rounds); round++) {
  for (const [name, run] of Object.entries(contenders)) {
    const result = run();
    if (result.error) console.error(`${name}: ${result.error}`);
    else results[name].push(result);
  }
}
const median = (list) => list.slice().sort((a, b) => a - b)[list.length >> 1];
const table = Object.entries(results)
  .filter(([, runs]) => runs.length > 0)
  .map(([name, runs]) => ({
    name,
    secondsPerStep: median(runs.map((run) => run.secondsPerStep)),
    peakBytes: median(runs.map((run) => run.peakBytes)),
    firstStepSeconds: median(runs.map((run) => run.firstStepSeconds)),
    logpsChosen: runs[0].logpsChosen,
  }));
const rival = table.find(({ name }) => name.startsWith("TRL"));
const ratio = (a, b) => (b === undefined ? "" : ` (${(a / b).toFixed(2)}×)`);
console.log(
  `${cpus()[0].model}, ${o.threads} threads, Node ${process.version}; SmolLM2-135M shapes, DPO on ${o.batch} pairs of 2×${o.length} tokens, LoRA r 16`,
);
console.log(
  "| | s/step | peak resident MiB | start to first step, s | logps/chosen |\n| --- | ---: | ---: | ---: | ---: |",
);
for (const row of table) {
  const cells = [
    `${row.secondsPerStep.toFixed(2)}${ratio(row.secondsPerStep, rival?.secondsPerStep)}`,
    `${(row.peakBytes / 2 ** 20).toFixed(0)}${ratio(row.peakBytes, rival?.peakBytes)}`,
    `${row.firstStepSeconds.toFixed(1)}${ratio(row.firstStepSeconds, rival?.firstStepSeconds)}`,
    row.logpsChosen?.toFixed(2),
  ];
  console.log(`| ${row.name} | ${cells.join(" | ")} |`);
}
if (o.json) writeFileSync(o.json, JSON.stringify({ results, table }, null, 2));
