// Compiles native/*.cc into build/native/unsloth_cpu.node. Objects whose inputs did not change are kept; where nothing is
// compiled nothing is said.
import { execFile, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
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

/** Why there is nothing to compile with here, in words; or what there is. */
function findTools(root) {
  if (process.platform === "win32") return { missing: "they are not compiled on Windows" };
  const headers = findHeaders(root);
  if (!headers) return { missing: "node-api-headers is not installed" };
  const compiler = findCompiler();
  if (!compiler) return { missing: "there is no C++ compiler (tried $CXX, c++, g++, clang++)" };
  return { headers, compiler };
}

/**
 * Builds the addon. Answers true when it is there and current. One line on stderr says that compiling begins, another how it
 * ended.
 * @param {string} root the package's folder
 * @param {{ out?: string, quiet?: boolean }} options quiet: what is not tried, for want of a compiler, is not said
 */
export async function buildNative(root, { out = join(root, "build", "native"), quiet = false } = {}) {
  const say = sayer(root);
  const { headers, compiler, missing } = findTools(root);
  if (missing) {
    if (!quiet) say(`no native CPU kernels: ${missing}. ${FALLBACK}`);
    return false;
  }
  const started = performance.now();

  mkdirSync(out, { recursive: true });
  const sources = nativeSources(root);
  const shared = sources.filter((file) => !file.endsWith(".cc"));
  const sharedHash = hash(shared.flatMap((file) => [file, readFileSync(file)]));
  try {
    const objects = [];
    const tasks = units().flatMap((unit) => {
      const source = join(root, "native", `${unit.name}.cc`);
      const flags = [...FLAGS, `-I${headers}`, ...unit.flags];
      const key = hash([compiler.version, ...flags, sharedHash, readFileSync(source)]);
      const object = join(out, `${unit.name}.${key.slice(0, 16)}.o`);
      objects.push(object);
      if (existsSync(object)) return [];
      return async () => {
        const { stderr } = await run(compiler.name, [...flags, "-c", source, "-o", `${object}.part`]);
        if (stderr) process.stderr.write(stderr);
        renameSync(`${object}.part`, object);
      };
    });
    const target = join(out, "unsloth_cpu.node");
    if (tasks.length > 0) {
      const files = `${tasks.length} file${tasks.length === 1 ? "" : "s"} with ${basename(compiler.name)}`;
      say(`compiling the native CPU kernels (${files}), which takes up to about a minute`);
    }
    await pool(tasks, availableParallelism());
    const stamp = join(out, "unsloth_cpu.inputs");
    const inputs = objects.join("\n");
    if (existsSync(target) && existsSync(stamp) && readFileSync(stamp, "utf8") === inputs) return true;
    // Node-API and libuv come from the node executable; the C++ library is not used, so it must not become a dependency.
    const platform = process.platform === "darwin" ? ["-undefined", "dynamic_lookup"] : ["-Wl,--as-needed"];
    await run(compiler.name, ["-shared", "-static-libgcc", ...platform, "-o", `${target}.part`, ...objects]);
    renameSync(`${target}.part`, target); // a process that has the old file loaded keeps it
    writeFileSync(stamp, inputs);
    const seconds = ((performance.now() - started) / 1000).toFixed(0);
    say(
      `${tasks.length > 0 ? "compiled" : "linked"} the native CPU kernels in ${seconds} s: ${target}, by ${compiler.version.split("\n")[0]}`,
    );
    return true;
  } catch (error) {
    const text = error.stderr || error.message;
    process.stderr.write(`${text.trimEnd()}\n`);
    const why = /^.*\berror\b.*$/im.exec(text)?.[0] ?? text.split("\n")[0];
    say(`the native CPU kernels did not compile: ${why}. ${FALLBACK}`);
    return false;
  }
}

const FALLBACK = "The CPU backend will use its WebAssembly build, which is slower.";

/**
 * What writes a line to stderr; and to the terminal, where npm keeps what the scripts of a dependency write to itself and the
 * user would look at a still line for as long as it takes.
 */
function sayer(root) {
  const { npm_lifecycle_event: event, npm_config_loglevel: level, INIT_CWD: from } = process.env;
  const isDependency = event === "install" && from !== undefined && resolve(from) !== resolve(root);
  const isHidden = isDependency && !process.stderr.isTTY && level !== "silent";
  return (message) => {
    const line = `unsloth: ${message}\n`;
    process.stderr.write(line);
    if (!isHidden) return;
    try {
      const terminal = openSync("/dev/tty", "w");
      // Over the sign that npm turns meanwhile.
      writeSync(terminal, `\r${line}`);
      closeSync(terminal);
    } catch {
      // There is no terminal.
    }
  };
}
