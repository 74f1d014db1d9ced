/** What compiling the native kernels says, with a compiler that only makes files. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const skip = process.platform === "win32" ? "nothing is compiled on Windows" : false;
const folder = mkdtempSync(join(tmpdir(), "build-native-"));
after(() => rmSync(folder, { recursive: true }));

const SOURCES = ["isa_avx512", "isa_avx2", "isa_base", "program", "memory", "pool", "host_uv", "addon"];
/** Makes the file after -o; with FAILING set fails as a compiler does, but for its version. */
const COMPILER = `#!/bin/sh
if [ "$1" = --version ]; then echo "fake++ 1.0"; exit; fi
if [ -n "$FAILING" ]; then echo "In file included" >&2; echo "pool.cc:3:1: error: no such thing" >&2; exit 1; fi
while [ "$1" != -o ]; do shift; done
echo made > "$2"
`;

/** The package as npm installs it, with sources of nothing. */
function installed(name: string): string {
  const place = join(folder, name, "node_modules", "unsloth");
  for (const dir of ["native", "scripts"]) mkdirSync(join(place, dir), { recursive: true });
  for (const script of ["build.mjs", "build-native.mjs"]) {
    cpSync(join(root, "scripts", script), join(place, "scripts", script));
  }
  for (const source of SOURCES) writeFileSync(join(place, "native", `${source}.cc`), "");
  const headers = join(folder, name, "node_modules", "node-api-headers");
  mkdirSync(headers);
  for (const dir of [place, headers]) writeFileSync(join(dir, "package.json"), "{}");
  writeFileSync(join(folder, "fake++"), COMPILER);
  chmodSync(join(folder, "fake++"), 0o755);
  return place;
}

function build(place: string, what: string, env: Record<string, string> = {}) {
  const { PATH, HOME } = process.env;
  // As npm runs it for a dependency, but in a session of its own: nothing is written to the terminal that runs this test.
  const result = spawnSync(process.execPath, [join(place, "scripts/build.mjs"), what], {
    encoding: "utf8",
    env: { PATH, HOME, CXX: join(folder, "fake++"), npm_lifecycle_event: what, INIT_CWD: folder, ...env },
    ...({ detached: true } as object),
  });
  const { status, stdout, stderr } = result;
  assert.equal(stdout, "");
  return { status, lines: stderr.split("\n").filter(Boolean) };
}

test("compiling says on stderr that it begins, how long it takes and how it ended, and is silent when current", {
  skip,
}, () => {
  const place = installed("compiled");
  const first = build(place, "install");
  assert.equal(first.status, 0);
  assert.equal(first.lines.length, 2, first.lines.join("\n"));
  assert.match(
    first.lines[0]!,
    /^unsloth: compiling the native CPU kernels \(\d files with fake\+\+\), which takes up to about a minute$/,
  );
  assert.match(
    first.lines[1]!,
    /^unsloth: compiled the native CPU kernels in \d+ s: .*unsloth_cpu\.node, by fake\+\+ 1\.0$/,
  );
  assert.ok(existsSync(join(place, "build/native/unsloth_cpu.node")));
  for (const what of ["install", "native"]) assert.deepEqual(build(place, what), { status: 0, lines: [] });
  writeFileSync(join(place, "native/pool.cc"), "// changed");
  assert.match(build(place, "native").lines[0]!, /\(1 file with fake\+\+\)/);
});

test("a compiler that fails fails no installation, and what follows from it is said", { skip }, () => {
  const place = installed("failing");
  const { status, lines } = build(place, "install", { FAILING: "1" });
  assert.equal(status, 0);
  assert.match(lines[0]!, /^unsloth: compiling/);
  assert.match(
    lines.at(-1)!,
    /^unsloth: the native CPU kernels did not compile: pool\.cc:3:1: error: no such thing\. The CPU backend will use its Web/,
  );
  assert.equal(build(place, "native", { FAILING: "1" }).status, 1);
});

test("without a compiler an installation is silent, and whoever asks for the kernels is told", { skip }, () => {
  const place = installed("without");
  const none = { CXX: "", PATH: join(folder, "nowhere") };
  assert.deepEqual(build(place, "install", none), { status: 0, lines: [] });
  const { status, lines } = build(place, "native", none);
  assert.equal(status, 1);
  assert.deepEqual(lines.length, 1);
  assert.match(
    lines[0]!,
    /^unsloth: no native CPU kernels: there is no C\+\+ compiler \(tried .*\)\. The CPU backend will use/,
  );
});
