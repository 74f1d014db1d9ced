// npm run bench:cpu [-- --python PATH]: LoRA training on the CPU, this project beside transformers + peft on PyTorch.
// Same random SmolLM2-135M-shaped model (bf16 checkpoint), 4×512 tokens, LoRA r 16 on all linears, 2 threads.
// Python needs tests/oracle/requirements.txt; without it only this project is measured.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { inTurn, measure, median, ratio, smollm2Folder } from "./cpu-rivals.mjs";

const { values: o } = parseArgs({
  options: {
    python: { type: "string", default: process.env.PYTHON ?? "python3" },
    threads: { type: "string", default: "2" },
    steps: { type: "string", default: "6" },
    rounds: { type: "string", default: "2" },
    json: { type: "string" },
  },
});
const here = fileURLToPath(new URL(".", import.meta.url));
const folder = await smollm2Folder();
const common = ["--model", folder, "--threads", o.threads, "--steps", o.steps];
/** Both sides' names for the same numbers. */
const named = (result) => ({
  ...result,
  tokensPerSecond: result.tokensPerSecond ?? result.tokens_per_second,
  peakBytes: result.peakBytes ?? result.peak_resident_bytes,
  firstStepSeconds: result.firstStepSeconds ?? result.seconds_to_first_step_done,
});

const contenders = {
  "this project": () => measure(process.execPath, [join(here, "ours-cpu.mjs"), ...common]),
  "this project, NF4": () => measure(process.execPath, [join(here, "ours-cpu.mjs"), ...common, "--load-in-4bit"]),
  "this project, checkpointing": () =>
    measure(process.execPath, [join(here, "ours-cpu.mjs"), ...common, "--checkpointing", "true"]),
  "transformers + peft": () => measure(o.python, [join(here, "peft_cpu.py"), ...common]),
  "transformers + peft, heap kept": () => measure(o.python, [join(here, "peft_cpu.py"), ...common, "--keep-memory"]),
};
const results = inTurn(contenders, Number(o.rounds));
for (const [name, runs] of Object.entries(results)) results[name] = runs.map(named);
const rows = Object.entries(results)
  .filter(([, runs]) => runs.length > 0)
  .map(([name, runs]) => ({
    name,
    tokensPerSecond: median(runs.map((r) => r.tokensPerSecond)),
    peakBytes: median(runs.map((r) => r.peakBytes)),
    firstStepSeconds: median(runs.map((r) => r.firstStepSeconds)),
    firstLoss: runs[0].losses[0],
  }));
const rival = rows.find((row) => row.name === "transformers + peft");
console.log(
  `${cpus()[0].model}, ${o.threads} threads, Node ${process.version}; SmolLM2-135M shapes, 4×512 tokens, LoRA r 16 on all linears`,
);
console.log(
  "| | tokens/s | peak resident MiB | start to first step, s | first loss |\n| --- | ---: | ---: | ---: | ---: |",
);
for (const row of rows) {
  const cells = [
    `${row.tokensPerSecond.toFixed(0)}${ratio(row.tokensPerSecond, rival?.tokensPerSecond)}`,
    `${(row.peakBytes / 2 ** 20).toFixed(0)}${ratio(row.peakBytes, rival?.peakBytes)}`,
    `${row.firstStepSeconds.toFixed(2)}${ratio(row.firstStepSeconds, rival?.firstStepSeconds)}`,
    row.firstLoss?.toFixed(4),
  ];
  console.log(`| ${row.name} | ${cells.join(" | ")} |`);
}
if (o.json)
  writeFileSync(
    o.json,
    JSON.stringify(
      {
        results,
        rows,
        machine: cpus()[0].model,
        commit: execFileSync("git", ["rev-parse", "HEAD"], { encoding: "utf8" }).trim(),
      },
      null,
      2,
    ),
  );
