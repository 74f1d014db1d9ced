// Everything that is measured on a GPU, in one run: npm run bench:gpu
//   node bench/gpu.mjs [--sections kernels,steps,…] [--models llama3-8b,qwen2-7b,gemma2-9b] [--python python3] [--seconds 600]
//     [--rivals peft,bitsandbytes,unsloth] [--shapes 8x512,2x2048,8x2048] (those of the rivals)
// Sections, in this order: kernels, attention, steps, fp8, rivals, first-step, long, longest, trajectory, quickstart, decode,
// dpo, ppo. The last two time --rl-models (llama3-1b,llama3-8b) against TRL, which may be in folders of its own: --trl FOLDER
// for DPO, --trl-ppo FOLDER for PPO, which TRL has not had since 1.13 (1.12.0 is what is meant).
// With OUT set, gpu.json (every result) and gpu.md (tables) go there, else into the current folder. Each part is a process of
// its own that may take --seconds; one that fails is a line in the report. What a section does is at the top of its script
// in bench/gpu/.
//
//   node bench/gpu.mjs --case 8x2048:budget+table [--case …] [--model llama3-8b] [--layers 32] [--peft PYTHON] …
// times single cases instead (bench/gpu/steps.mjs). A case is BATCHxLENGTH:POLICY, the policy budget, minimum, recompute or
// keep, with +offload, +within=GIB (of the card), +trained=SHARE (of each row's tokens has a label), +steps=N, +warmup=N and
// +table (time of each kind of kernel). Cases with less memory go first, since the peak never falls.
import { existsSync } from "node:fs";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { report } from "./gpu/report.mjs";
import { rlSections } from "./gpu/rl-sections.mjs";
import { runPart, script } from "./gpu/run.mjs";
import { MODELS, RL_MODELS, shapeOf } from "./gpu/shapes.mjs";

const { values: flags } = parseArgs({
  strict: true,
  options: {
    sections: { type: "string" },
    models: { type: "string", default: Object.keys(MODELS).join() },
    "rl-models": { type: "string", default: Object.keys(RL_MODELS).join() },
    python: { type: "string", default: "python3" },
    trl: { type: "string" },
    "trl-ppo": { type: "string" },
    rivals: { type: "string", default: "peft,bitsandbytes,unsloth" },
    shapes: { type: "string", default: "8x512,2x2048,8x2048" },
    seconds: { type: "string", default: "600" },
    case: { type: "string", multiple: true, default: [] },
    model: { type: "string", default: "llama3-8b" },
    layers: { type: "string" },
    steps: { type: "string", default: "5" },
    warmup: { type: "string", default: "3" },
    table: { type: "string", default: "24" },
    "offload-embedding": { type: "boolean", default: false },
    dtype: { type: "string", default: "bf16" },
    storage: { type: "string", default: "nf4" },
    fp8: { type: "boolean", default: false },
    floor: { type: "boolean", default: false },
    peft: { type: "string" },
  },
});

const ALL = [
  "kernels",
  "attention",
  "steps",
  "fp8",
  "rivals",
  "first-step",
  "long",
  "longest",
  "trajectory",
  "quickstart",
  "decode",
  "dpo",
  "ppo",
];
const sections = flags.sections?.split(",") ?? (flags.case.length > 0 ? [] : ALL);
for (const section of sections) {
  if (!ALL.includes(section)) throw new Error(`--sections ${section}: there are ${ALL.join(", ")}`);
}
const models = flags.models.split(",");
const layers = flags.layers ? ["--layers", flags.layers] : [];
const limit = Number(flags.seconds);
const results = [];
const run = (command, args, options) => runPart(command, args, { limit, results, ...options });
const node = (name, args = [], options = {}) => run(process.execPath, [script(`gpu/${name}.mjs`), ...args], options);
const python = (name, args, options = {}) => run(flags.python, [script(name), ...args], options);
const wants = (section) => sections.includes(section);
const caseFlags = (cases) => cases.flatMap((one) => ["--case", one]);
const timing = ["--steps", flags.steps, "--warmup", flags.warmup, "--table", flags.table];
const shape = (model) => ["--name", model, "--shape", JSON.stringify(shapeOf(model, Number(flags.layers)))];
const shapes = flags.shapes.split(",");
const rivals = flags.rivals.split(",");

/** Cases of the table, those of less memory first. The last one's kernels are listed. */
const TABLE = [
  "8x512:minimum+offload",
  "2x2048:minimum+offload",
  "2x2048:minimum",
  "8x2048:minimum+offload",
  "8x2048:minimum",
  "2x2048:budget",
  "8x2048:budget+table",
];

if (flags.case.length > 0) {
  const more = [
    "--dtype",
    flags.dtype,
    "--storage",
    flags.storage,
    ...(flags.fp8 ? ["--fp8"] : []),
    ...(flags["offload-embedding"] ? ["--offload-embedding"] : []),
    ...(flags.floor ? ["--floor"] : []),
  ];
  await node("steps", ["--model", flags.model, ...caseFlags(flags.case), ...layers, ...timing, ...more]);
  if (flags.peft) {
    const [last] = flags.case.at(-1).split(":");
    await run(flags.peft, [script("peft_gpu.py"), ...shape(flags.model), "--case", last]);
  }
}
if (wants("kernels")) await node("kernels");
if (wants("attention")) {
  for (const model of models)
    await python("peft_gpu.py", [...shape(model), ...shapes.flatMap((one) => ["--attention", one])]);
  if (existsSync(script("attention_gpu.mjs"))) await run(process.execPath, [script("attention_gpu.mjs")], {});
}
if (wants("steps")) {
  for (const model of models) {
    const attention = ["--attention", JSON.stringify(fastestAttention(model))];
    await node("steps", ["--model", model, ...caseFlags(TABLE), ...layers, ...timing, "--floor", ...attention]);
  }
}
if (wants("fp8")) await node("steps", ["--model", models[0], "--case", "8x2048:budget", ...layers, ...timing, "--fp8"]);
if (wants("rivals")) {
  for (const model of models) {
    const about = [...shape(model), ...caseFlags(shapes)];
    if (rivals.includes("peft")) await python("peft_gpu.py", about);
    if (rivals.includes("bitsandbytes")) await python("peft_gpu.py", [...about, "--quant", "nf4"]);
    if (rivals.includes("unsloth")) await python("peft_gpu.py", [...about, "--unsloth"]);
  }
}
if (wants("first-step")) {
  for (const [label, cold] of [
    [", kernels compiled", true],
    [", kernels from the cache", false],
  ]) {
    const args = ["--model", models[0], ...layers, "--label", label];
    await node("first-step", args, { started: true, coldCache: cold });
  }
  await python("peft_gpu.py", [...shape(models[0]), "--case", "8x2048"], { started: true });
}
if (wants("long")) {
  const one = "1x80000:budget+offload+within=24+steps=1+warmup=1";
  await node("steps", ["--model", models[0], "--case", one, ...layers]);
}
if (wants("longest")) {
  for (const model of models) await node("longest", ["--model", model, ...layers]);
  await node("long-check", ["--model", models[0]]);
}
if (wants("trajectory")) {
  const folder = `${process.env.OUT ?? "."}/trajectory`;
  await node("trajectory", ["--folder", folder]);
  for (const dtype of ["float32", "bfloat16"])
    await python("peft_trajectory.py", ["--folder", folder, "--dtype", dtype]);
}
if (wants("quickstart")) await node("quickstart");
if (wants("decode") && existsSync(script("decode_gpu.mjs")))
  await run(process.execPath, [script("decode_gpu.mjs")], {});
const rl = rlSections({
  models: flags["rl-models"].split(","),
  layers,
  shape: (model) => shapeOf(model, Number(flags.layers)),
  node,
  python,
  trl: { dpo: flags.trl, ppo: flags["trl-ppo"] ?? flags.trl },
});
for (const section of ["dpo", "ppo"]) if (wants(section)) await rl[section]();

report(results, { cpu: cpus()[0]?.model, models });
process.exitCode = results.some(({ section }) => section === "failed") ? 1 : 0;

/** Milliseconds of a layer's attention, the fastest that a rival was measured at, by batch and length. */
function fastestAttention(model) {
  const fastest = {};
  // Torch's kernels have no soft cap: what they do for such a model is less than it needs.
  if (MODELS[model].attn_logit_softcapping) return fastest;
  for (const row of results) {
    if (row.section !== "attention" || row.model !== model || row.error) continue;
    const ms = row.forwardMs + row.backwardMs;
    fastest[row.case] = Math.min(fastest[row.case] ?? Number.POSITIVE_INFINITY, ms);
  }
  return fastest;
}
