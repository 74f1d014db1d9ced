// The Python packages that bench/gpu.mjs measures this project against, for a machine without a network: their wheels,
// unpacked into two folders. "site" holds Unsloth, bitsandbytes and TRL (bench/gpu/rivals.txt), "site-ppo" the last TRL
// that has a PPOTrainer. Nothing is taken along that PyTorch, transformers, peft and accelerate bring.
//   node scripts/gpu-rivals.mjs [--python 3.12] [--cuda 130]     makes bundle-rivals/ (git ignores it)
//   there: tar xJf bundle-rivals/rivals.tar.xz -C DIR; PYTHONPATH=DIR/site python3 bench/peft_gpu.py … --unsloth
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({
  options: { python: { type: "string", default: "3.12" }, cuda: { type: "string", default: "130" } },
});
const PPO = "trl==1.12.0";
const root = join(import.meta.dirname, "..");
const out = join(root, "bundle-rivals");
const work = mkdtempSync(join(tmpdir(), "gpu-rivals-"));

function run(command, args) {
  const { status } = spawnSync(command, args, { stdio: ["ignore", "inherit", "inherit"] });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} ended with status ${status}`);
}

function fetch(name, wanted) {
  const wheels = join(work, `wheels-${name}`);
  const platforms = ["manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64"];
  run("python3", [
    ...["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", flags.python],
    ...platforms.flatMap((platform) => ["--platform", platform]),
    ...["--dest", wheels, ...wanted],
  ]);
  const site = join(work, name);
  mkdirSync(site);
  for (const wheel of readdirSync(wheels)) run("unzip", ["-qo", join(wheels, wheel), "-d", site]);
  return site;
}

/** Whether a file is left out: code of other cards and CUDA versions, tests, web pages, kernels the rivals do not call here. */
function isSpare(path) {
  const name = path.slice(path.lastIndexOf("/") + 1);
  if (name.startsWith("libbitsandbytes_")) return !/_(cpu|cuda\d+)\.so$/.test(name) || !isWantedCuda(name);
  return /\/(studio|unsloth_cli|torchao\/.*\.so)(\/|$)/.test(path);
}
const isWantedCuda = (name) => name.includes("_cpu") || name === `libbitsandbytes_cuda${flags.cuda}.so`;

const site = fetch("site", ["-r", join(root, "bench/gpu/rivals.txt")]);
for (const name of readdirSync(site, { recursive: true })) {
  if (isSpare(`/${name}`)) rmSync(join(site, name), { recursive: true, force: true });
}
fetch("site-ppo", [PPO]);
rmSync(out, { recursive: true, force: true });
mkdirSync(out);
const archive = join(out, "rivals.tar.xz");
run("sh", ["-c", `tar cf - -C '${work}' site site-ppo | xz -T2 -6 -c > '${archive}'`]);
rmSync(work, { recursive: true });
console.log(`bundle-rivals/rivals.tar.xz: ${(statSync(archive).size / 2 ** 20).toFixed(1)} MiB`);
