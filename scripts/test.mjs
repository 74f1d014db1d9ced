// Builds, then runs every compiled test (or those whose path contains an argument) and ends with "N passed, N failed".
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { run } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const built = spawnSync(process.execPath, [join(root, "scripts/build.mjs")], { stdio: "inherit" });
if (built.status !== 0) {
  console.log("the build failed; no test was run");
  process.exit(1);
}

const wanted = process.argv.slice(2);
const files = readdirSync(join(root, "dist"), { recursive: true })
  .map(String)
  .filter((file) => file.endsWith(".test.js") && (wanted.length === 0 || wanted.some((part) => file.includes(part))))
  .map((file) => join(root, "dist", file))
  .sort();

let passed = 0;
let failed = 0;
let skipped = 0;
const started = performance.now();
const seconds = () => ((performance.now() - started) / 1000).toFixed(0).padStart(4);
const perFile = new Map();
for await (const { type, data } of run({ files, concurrency: 2 })) {
  if (type === "test:stderr" || type === "test:stdout") process.stdout.write(data.message);
  if (type !== "test:pass" && type !== "test:fail") continue;
  const isFile = data.nesting === 0 && data.name.endsWith(".test.js");
  if (type === "test:fail" && !(isFile && perFile.get(data.file)?.failed)) {
    failed++;
    const error = data.details?.error?.cause ?? data.details?.error;
    console.log(`FAILED ${relative(root, data.file ?? "")}: ${data.name}\n${error?.stack ?? error}`);
    perFile.set(data.file, { failed: true });
  } else if (type === "test:pass" && !isFile && data.details?.type !== "suite") {
    if (data.skip) skipped++;
    else passed++;
  }
  if (data.file && data.nesting === 0 && !perFile.has(data.file)) {
    perFile.set(data.file, { failed: false });
    console.log(`${seconds()} s  ${relative(join(root, "dist"), data.file)}`);
  }
}
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);
