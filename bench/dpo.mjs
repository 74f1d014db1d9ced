// npm run bench:dpo [-- --python PATH]: DPO with LoRA r 16 on the CPU, this project beside TRL + peft on PyTorch, in turn.
// Random SmolLM2-135M-shaped model, pairs of answers of equal length; Python needs tests/oracle/requirements.txt.
import { writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { inTurn, measure, median, ratio, smollm2Folder } from "./cpu-rivals.mjs";

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
const folder = await smollm2Folder();
const { Tokenizer } = await import("../dist/index.js");

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
const contenders = {
  "this project": () => measure(process.execPath, [join(here, "ours-dpo.mjs"), ...common]),
  "this project, NF4": () => measure(process.execPath, [join(here, "ours-dpo.mjs"), ...common, "--load-in-4bit"]),
  "TRL + peft": () => measure(o.python, [join(here, "trl_dpo.py"), ...common]),
  "TRL + peft, gradient checkpointing (TRL's default)": () =>
    measure(o.python, [join(here, "trl_dpo.py"), ...common, "--checkpointing"]),
};
const results = inTurn(contenders, Number(o.rounds));
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
