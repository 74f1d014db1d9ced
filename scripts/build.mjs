// npm run build: TypeScript to dist/, and the native CPU addon to build/native/.
//   node scripts/build.mjs            everything
//   node scripts/build.mjs types      TypeScript only (exits 1 on type errors)
//   node scripts/build.mjs native     the addon only (exits 1 when it did not build); --out=FOLDER puts it elsewhere
//   node scripts/build.mjs install    the same, but never a failure: npm runs it where the package is installed, and says
//                                     nothing where there is nothing to compile, or nothing to do that with
// Without a C++ compiler the package works on its WebAssembly build, so a missing or failing compiler is not an error.
import { spawnSync } from "node:child_process";
import { chmodSync, cpSync, existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { buildNative } from "./build-native.mjs";

const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`Node.js 20.19 or newer is needed to build this package; this is ${process.versions.node}`);
  // Where the package is only installed, it runs its WebAssembly build.
  process.exit(process.argv[2] === "install" ? 0 : 1);
}

const root = join(import.meta.dirname, "..");
const { values, positionals: parts } = parseArgs({
  allowPositionals: true,
  options: { out: { type: "string" } },
});
const wanted = (part) => parts.length === 0 || parts.includes(part);

if (wanted("native") || wanted("install")) {
  const built = await buildNative(root, { out: values.out, quiet: wanted("install") && parts.length > 0 });
  if (!built && parts.includes("native")) process.exitCode = 1;
}
if (wanted("types")) {
  const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
  const { status } = spawnSync(process.execPath, [tsc, "-p", root], { stdio: "inherit" });
  if (status !== 0) process.exitCode = 1;
  // npx marks a package's command as one when it first links to it, not again when it has been built anew.
  const command = join(root, "dist/cli/main.js");
  if (existsSync(command)) chmodSync(command, 0o755);
  // CUDA kernels are compiled where they run: they ship as source beside the module that loads them.
  const kernels = "backends/cuda/kernels";
  cpSync(join(root, "src", kernels), join(root, "dist", kernels), { recursive: true });
}
