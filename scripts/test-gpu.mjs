// npm run test:gpu: the CUDA backend's tests (conformance of every op, kernels, families, trajectories), on this machine's
// GPU. Runs the compiled tests beside this script's dist/; with OUT set, the full log goes there.
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "node:test";

process.env.UNSLOTH_TEST_GPU = "1";
const folder = join(import.meta.dirname, "../dist/backends/cuda");
const wanted = process.argv.slice(2);
const files = readdirSync(folder)
  .filter((name) => name.endsWith(".test.js") && (wanted.length === 0 || wanted.some((part) => name.includes(part))))
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
