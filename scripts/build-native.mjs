// Compiles native/*.cc into build/native/unsloth_cpu.node. Objects whose inputs did not change are kept.
import { execFile, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

const FLAGS = [
  "-std=gnu++17",
  "-O3",
  "-ffp-contract=fast", // a·b + c is one rounding where the instruction set has it
  "-fno-math-errno",
  "-fno-exceptions",
  "-fno-rtti",
  "-fno-threadsafe-statics",
  "-fvisibility=hidden",
  "-fPIC",
  "-Wall",
  "-Wextra",
  "-Wno-psabi",
  "-DNAPI_VERSION=8",
];
const ISA_FLAGS = {
  avx2: ["-mavx2", "-mfma", "-mf16c", "-mbmi2"],
  avx512: ["-mavx2", "-mfma", "-mf16c", "-mbmi2", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
};

/** Source files of the addon for this processor, with their extra flags. */
function units() {
  const x86 = process.arch === "x64" ? ["avx512", "avx2"] : [];
  return [
    ...x86.map((isa) => ({ name: `isa_${isa}`, flags: ISA_FLAGS[isa] })),
    { name: "isa_base", flags: [] },
    ...["program", "memory", "pool", "host_uv", "addon"].map((name) => ({ name, flags: [] })),
  ];
}

/** The first C++ compiler that answers: $CXX, then the usual names. */
function findCompiler() {
  for (const name of [process.env.CXX, "c++", "g++", "clang++"]) {
    if (!name) continue;
    try {
      const version = execFileSync(name, ["--version"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
      return { name, version };
    } catch {}
  }
}

/** Node-API's headers; npm puts a dependency's dependencies beside it, so they may be above the package's folder. */
export function findHeaders(root) {
  try {
    return join(dirname(createRequire(join(root, "package.json")).resolve("node-api-headers/package.json")), "include");
  } catch {}
}

/** Every file under native/, by relative path, in a fixed order. */
export function nativeSources(root) {
  const files = readdirSync(join(root, "native"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(cc|h|inc)$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
  return files.sort();
}

function hash(parts) {
  const h = createHash("sha256");
  for (const part of parts) h.update(part).update("\0");
  return h.digest("hex");
}

/** Runs tasks, at most `width` at a time. */
async function pool(tasks, width) {
  const queue = tasks.values();
  const lane = async () => {
    for (const task of queue) await task();
  };
  await Promise.all(Array.from({ length: width }, lane));
}

/**
 * Builds the addon. Answers true when it is there and current.
 * @param {string} root the package's folder
 */
export async function buildNative(root, { out = join(root, "build", "native") } = {}) {
  const fallback = "The CPU backend will use its WebAssembly build.";
  if (process.platform === "win32") return skip(`Native CPU kernels are not built on Windows. ${fallback}`);
  const headers = findHeaders(root);
  if (!headers) return skip(`node-api-headers is not installed, so no native CPU kernels. ${fallback}`);
  const compiler = findCompiler();
  if (!compiler) return skip(`No C++ compiler found (tried $CXX, c++, g++, clang++). ${fallback}`);

  mkdirSync(out, { recursive: true });
  const sources = nativeSources(root);
  const shared = sources.filter((file) => !file.endsWith(".cc"));
  const sharedHash = hash(shared.flatMap((file) => [file, readFileSync(file)]));
  try {
    const objects = [];
    const tasks = units().map((unit) => {
      const source = join(root, "native", `${unit.name}.cc`);
      const flags = [...FLAGS, `-I${headers}`, ...unit.flags];
      const key = hash([compiler.version, ...flags, sharedHash, readFileSync(source)]);
      const object = join(out, `${unit.name}.${key.slice(0, 16)}.o`);
      objects.push(object);
      return async () => {
        if (existsSync(object)) return;
        const { stderr } = await run(compiler.name, [...flags, "-c", source, "-o", `${object}.part`]);
        if (stderr) process.stderr.write(stderr);
        renameSync(`${object}.part`, object);
      };
    });
    await pool(tasks, availableParallelism());

    const target = join(out, "unsloth_cpu.node");
    const stamp = join(out, "unsloth_cpu.inputs");
    const inputs = objects.join("\n");
    if (existsSync(target) && existsSync(stamp) && readFileSync(stamp, "utf8") === inputs) return true;
    // Node-API and libuv come from the node executable; the C++ library is not used, so it must not become a dependency.
    const platform = process.platform === "darwin" ? ["-undefined", "dynamic_lookup"] : ["-Wl,--as-needed"];
    await run(compiler.name, ["-shared", "-static-libgcc", ...platform, "-o", `${target}.part`, ...objects]);
    renameSync(`${target}.part`, target); // a process that has the old file loaded keeps it
    writeFileSync(stamp, inputs);
    console.log(`Built ${target} with ${compiler.version.split("\n")[0]}`);
    return true;
  } catch (error) {
    return skip(`${error.stderr ?? error.message}\nThe native CPU kernels did not build. ${fallback}`);
  }
}

function skip(message) {
  console.warn(message);
  return false;
}
