// npm run test:gpu [-- NAME …] [-- --sanitize]: the CUDA backend's tests (conformance of every op, kernels, families,
// trajectories) on this machine's GPU; with names only the files whose names contain one. Runs the compiled tests beside this
// script's dist/; with OUT set, the full log goes there.
// "compile", which compiles every kernel for old and new cards and needs NVRTC but no GPU, runs only when it is named.
// --sanitize runs a small part under NVIDIA's compute-sanitizer, where that is installed: reads and writes out of bounds.
import { spawnSync } from "node:child_process";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "node:test";

process.env.UNSLOTH_TEST_GPU = "1";
const folder = join(import.meta.dirname, "../dist/backends/cuda");
const wanted = process.argv.slice(2).filter((word) => word !== "--sanitize");
if (process.argv.includes("--sanitize")) process.exit(sanitize());

const isWanted = (name) =>
  wanted.length === 0 ? !name.startsWith("compile.") : wanted.some((part) => name.includes(part));
const files = readdirSync(folder)
  .filter((name) => name.endsWith(".test.js") && isWanted(name))
  .map((name) => join(folder, name));
const log = [];
let [passed, failed] = [0, 0];
for await (const { type, data } of run({ files, concurrency: 1, timeout: 240_000 })) {
  if (type === "test:stderr" || type === "test:stdout") process.stdout.write(data.message);
  if (type !== "test:pass" && type !== "test:fail") continue;
  if (data.name.endsWith(".test.js")) continue;
  const line = `${type === "test:pass" ? "ok    " : "FAILED"} ${data.details.duration_ms.toFixed(0).padStart(6)} ms  ${data.name}`;
  const error = data.details?.error?.cause ?? data.details?.error;
  log.push(type === "test:fail" ? `${line}\n    ${error?.stack ?? error}` : line);
  if (type === "test:pass") passed++;
  else {
    failed++;
    if (failed <= 40) console.log(`${line}: ${String(error?.message ?? error).slice(0, 300)}`);
  }
}
console.log(`${passed} passed, ${failed} failed`);
if (process.env.OUT) writeFileSync(join(process.env.OUT, "test-gpu.log"), `${log.join("\n")}\n`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);

/** Ops in bf16 with kernels of all kinds, under memcheck: it slows kernels down tens of times. */
function sanitize() {
  const file = join(folder, "ops.test.js");
  const pattern =
    wanted[0] ?? "(matmul NT|LoRA on|attention, causal|RMS norm|linear cross-entropy|embedding|GeGLU|rope).*bf16";
  const node = [process.execPath, `--test-name-pattern=${pattern}`, file];
  const tool = ["--tool", "memcheck", "--error-exitcode", "9", "--launch-timeout", "0"];
  const { status, error } = spawnSync("compute-sanitizer", [...tool, ...node], { stdio: "inherit" });
  if (error) {
    console.log("compute-sanitizer is not installed (it comes with the CUDA toolkit): nothing was checked");
    return 1;
  }
  return status ?? 1;
}
