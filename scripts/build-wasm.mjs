// Compiles the WebAssembly build of the CPU kernels into prebuilds/wasm/, which is committed.
//   node scripts/build-wasm.mjs            needs clang++ and wasm-ld (14 or later; $WASM_CXX names another clang++)
//   node scripts/build-wasm.mjs --check    exits 1 when the committed binary was not built from the current sources
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: { check: { type: "boolean" }, out: { type: "string" } },
});
const root = join(import.meta.dirname, "..");
const out = options.out ?? join(root, "prebuilds", "wasm");
const binary = join(out, "unsloth_cpu.wasm");
const sidecar = join(out, "unsloth_cpu.json");

const UNITS = ["wasm", "program", "pool", "isa_base"];
const HEADERS = ["vm.h", "engine.h", "pool.h"];
const COMPILE = [
  "--target=wasm32",
  "-std=gnu++17",
  "-O3",
  "-ffreestanding",
  "-ffp-contract=fast",
  "-fno-math-errno",
  "-fno-exceptions",
  "-fno-rtti",
  "-fno-threadsafe-statics",
  "-ftls-model=local-exec",
  "-fvisibility=hidden",
  ...["simd128", "bulk-memory", "atomics", "mutable-globals", "sign-ext", "nontrapping-fptoint"].map((f) => `-m${f}`),
  "-Wall",
  "-Wextra",
  "-Wno-pass-failed",
];
const LINK = [
  "--no-entry",
  "--import-memory",
  "--shared-memory",
  "--initial-memory=4194304",
  "--max-memory=4294967296",
  "-z",
  "stack-size=1048576",
  ...["__stack_pointer", "__wasm_init_tls", "__tls_size"].map((name) => `--export=${name}`),
  "--strip-all",
];

const sha256 = (...parts) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
};

/** Hash of everything the binary is made from; line endings do not count. */
function sourceHash() {
  const kernels = readdirSync(join(root, "native", "kernels"))
    .filter((file) => /\.(inc|h)$/.test(file))
    .map((file) => `kernels/${file}`);
  const files = [...UNITS.map((unit) => `${unit}.cc`), ...HEADERS, ...kernels].sort();
  const texts = files.map((file) => readFileSync(join(root, "native", file), "utf8").replaceAll("\r\n", "\n"));
  return sha256(JSON.stringify([COMPILE, LINK]), ...files.flatMap((file, i) => [file, "\0", texts[i], "\0"]));
}

function check() {
  const recorded = JSON.parse(readFileSync(sidecar, "utf8"));
  if (recorded.sources !== sourceHash()) {
    return `${binary} was not built from the current sources: run node scripts/build-wasm.mjs`;
  }
  if (recorded.binary !== sha256(readFileSync(binary))) return `${binary} is not the file ${sidecar} describes`;
}

function build() {
  const clang = process.env.WASM_CXX ?? "clang++";
  const folder = mkdtempSync(join(tmpdir(), "unsloth-wasm-"));
  try {
    const objects = UNITS.map((unit) => {
      const object = join(folder, `${unit}.o`);
      execFileSync(clang, [...COMPILE, "-c", join(root, "native", `${unit}.cc`), "-o", object], {
        stdio: "inherit",
      });
      return object;
    });
    mkdirSync(out, { recursive: true });
    execFileSync("wasm-ld", [...LINK, ...objects, "-o", binary], { stdio: "inherit" });
  } finally {
    rmSync(folder, { recursive: true });
  }
  const version = execFileSync(clang, ["--version"], { encoding: "utf8" }).split("\n")[0];
  const record = { sources: sourceHash(), binary: sha256(readFileSync(binary)), compiler: version };
  writeFileSync(sidecar, `${JSON.stringify(record, null, 2)}\n`);
  console.log(`Built ${binary}, ${readFileSync(binary).length} bytes`);
}

if (options.check) {
  const problem = check();
  if (problem) {
    console.error(problem);
    process.exitCode = 1;
  }
} else {
  build();
}
