import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import { tileKernels } from "./attention-tiles.ts";

/** scripts/test-gpu.mjs over test files made here, and with a compute-sanitizer that only says what it is told to. */

let root = import.meta.dirname;
while (!existsSync(join(root, "package.json"))) root = dirname(root);
const script = join(root, "scripts", "test-gpu.mjs");
const skip = existsSync(script) ? false : "scripts/test-gpu.mjs is not here";

const place = mkdtempSync(join(tmpdir(), "gpu-runner-"));
after(() => rmSync(place, { recursive: true, force: true }));
let places = 0;

/** In a file, that it launches kernels. */
const LAUNCHES = `// ${["gpu", "test", "support", "js"].join(".")}`;
const PASSING = 'test("passes (CUDA)", () => {});';

/** Runs the script where dist/backends/cuda holds these files; what it said, its log and its status. */
function run(files: Record<string, string>, words: string[], env: Record<string, string> = {}) {
  const here = join(place, String(places++));
  const folder = join(here, "dist/backends/cuda");
  for (const made of [folder, join(here, "scripts"), join(here, "bin")]) mkdirSync(made, { recursive: true });
  writeFileSync(join(here, "package.json"), '{ "type": "module" }');
  copyFileSync(script, join(here, "scripts/test-gpu.mjs"));
  for (const [name, body] of Object.entries(files)) {
    writeFileSync(join(folder, `${name}.test.js`), `import { test } from "node:test";\n${body}\n`);
  }
  if (env.SUMMARY !== undefined) {
    const fake =
      '#!/bin/sh\necho "fake $*" >&2\n' +
      // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's
      'while [ "$1" != "--launch-timeout" ]; do shift; done; shift 2\n"$@"; echo "$SUMMARY"; exit "${ENDED:-0}"\n';
    writeFileSync(join(here, "bin/compute-sanitizer"), fake);
    chmodSync(join(here, "bin/compute-sanitizer"), 0o755);
  }
  const { status, stdout } = spawnSync(process.execPath, [join(here, "scripts/test-gpu.mjs"), ...words], {
    encoding: "utf8",
    // The fake comes before a real one.
    env: { ...process.env, PATH: `${join(here, "bin")}${delimiter}${process.env.PATH}`, OUT: here, ...env },
  });
  const log = existsSync(join(here, "test-gpu.log")) ? readFileSync(join(here, "test-gpu.log"), "utf8") : "";
  return { status, stdout, log };
}

test("files run side by side, and are reported in order", { skip }, () => {
  const slow =
    'test("slow", () => new Promise((done) => setTimeout(done, 400)));\ntest("left out", { skip: true }, () => {});';
  const { status, stdout, log } = run({ a: slow, b: PASSING, compile: "throw new Error()" }, ["--jobs", "2"]);
  assert.equal(status, 0, stdout);
  assert.match(
    stdout,
    /a\.test\.js: 1 passed, 0 failed, 1 skipped\nb\.test\.js: 1 passed.*\n2 passed, 0 failed, 1 skipped\n/,
  );
  assert.match(log, /# a\.test\.js\nok +\d+ ms {2}slow\nskip .*\n[\s\S]*# b\.test\.js\nok .*passes \(CUDA\)/);
});

test("a failure, a crash, a file out of time and one without tests are no success", { skip }, () => {
  const cases: Record<string, readonly [string, RegExp]> = {
    failing: ['test("is wrong", () => { throw new Error("two is not three"); });', /is wrong: two is not three/],
    crashing: [`${PASSING}\ntest("dies", () => { process.kill(process.pid, "SIGKILL"); });`, /ended by SIGKILL/],
    late: [`${PASSING}\ntest("hangs", () => new Promise((done) => setTimeout(done, 60_000)));`, /not done after 2 s/],
    empty: ["", /ran no test/],
    broken: ["import './nothing.js';", /ran no test|FAILED|ended with 1/],
  };
  for (const [name, [body, said]] of Object.entries(cases)) {
    const { status, stdout, log } = run({ [name]: body, fine: PASSING }, ["--jobs", "2", "--limit", "2"]);
    assert.equal(status, 1, `${name}: ${stdout}`);
    assert.match(stdout, said);
    assert.match(log, said.source.startsWith("is wrong") ? /two is not three[\s\S]*at / : said);
  }
  const none = run({ fine: PASSING }, ["nothing"]);
  assert.equal(none.status, 1);
  assert.match(none.stdout, /no test ran/);
  assert.equal(run({ fine: PASSING }, ["--jobs", "none"]).status, 2);
});

test("the sanitizer's errors are counted, and a run of it that checked nothing is no success", { skip }, () => {
  const ops = 'test("embedding (CUDA, f16)", () => {});\ntest("rope (CUDA, bf16)", () => {});';
  const files = { ops, "model.is.not.sanitized": PASSING };
  const clean = run(files, ["--sanitize"], { SUMMARY: "========= ERROR SUMMARY: 0 errors" });
  assert.equal(clean.status, 0, clean.stdout);
  assert.match(clean.stdout, /fake --tool memcheck .*\n[\s\S]*2 passed, 0 failed, 0 skipped, memcheck: 0 errors\n/);
  const wrong = run(files, ["--sanitize"], { SUMMARY: "========= ERROR SUMMARY: 3 errors" });
  assert.equal(wrong.status, 1);
  assert.match(wrong.stdout, /memcheck: 3 errors/);
  const races = run(files, ["--sanitize=racecheck", "--pattern", "rope"], {
    SUMMARY: "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)",
  });
  assert.equal(races.status, 1);
  assert.match(races.stdout, /--tool racecheck[\s\S]*1 passed, 0 failed, \d skipped, racecheck: 2 errors/);
  assert.match(run(files, ["--sanitize"], { SUMMARY: "" }).stdout, /gave no summary/);
  const unmatched = run(files, ["--sanitize", "--pattern", "no such"], {
    SUMMARY: "========= ERROR SUMMARY: 0 errors",
  });
  assert.equal(unmatched.status, 1, unmatched.stdout);
  assert.match(unmatched.stdout, /no test ran/);
});

/** What racecheck says of accesses by these kernels. */
const race = (...kernels: string[]): string => {
  const [first, ...others] = kernels.map((name, i) => `Write access at ${name}+0x${i}af0`);
  return `========= Error: Race reported between ${first}\n${others.map((other) => `=========     and ${other} [16 hazards]\n`).join("")}=========\n`;
};
const NVJET = "nvjet_sm90_tss_64x32_64x16_1x4_h_bz_NTT";
const SDPA = "cudnn_generated_fort_native_sdpa_sm90_flash_bprop";

test("racecheck: races in kernels of NVIDIA's libraries are counted apart", { skip }, () => {
  const files = { ops: PASSING };
  const words = ["--sanitize=racecheck"];
  const said = (reports: string[], errors = reports.length) =>
    `${reports.join("")}========= RACECHECK SUMMARY: ${errors} hazards displayed (${errors} errors, 0 warnings)`;
  const library = [race(NVJET, NVJET), race(SDPA, SDPA, SDPA), race("void cutlass::Kernel2<tile>(T1::Params)", NVJET)];
  const clean = run(files, words, { SUMMARY: said(library), ENDED: "9" });
  assert.equal(clean.status, 0, clean.stdout);
  assert.match(clean.stdout, /0 skipped, racecheck: 0 errors \(and 3 in NVIDIA's libraries\)\n$/);
  // Own kernels' races count, also where the other access is a library's, and those of which there is no report.
  for (const [summary, errors] of [
    [said([...library, race("attention(int, int, float)", "attention(int, int, float)")]), 1],
    [said([race("attention_grad_q", NVJET), race(NVJET, "rope"), ...library]), 2],
    [said(library, 5), 2],
    [said([]).replaceAll("0 ", "2 "), 2],
  ] as const) {
    const wrong = run(files, words, { SUMMARY: summary, ENDED: "9" });
    assert.equal(wrong.status, 1, wrong.stdout);
    assert.match(wrong.stdout, new RegExp(`racecheck: ${errors} errors`));
  }
  const crashed = run(files, words, { SUMMARY: said(library), ENDED: "3" });
  assert.equal(crashed.status, 1);
  assert.match(crashed.stdout, /it ended with 3/);

  assert.match(clean.stdout, /fake --tool racecheck --print-limit 0 --error-exitcode 9 /);
  const memcheck = run(files, ["--sanitize"], { SUMMARY: "========= ERROR SUMMARY: 0 errors" });
  assert.doesNotMatch(memcheck.stdout, /print-limit/);
});

const SOURCES = join(root, "src/backends/cuda");
const noSources = skip || (existsSync(join(SOURCES, "kernels")) ? false : "the kernels' sources are not here");

test("no own kernel is taken for a library's", { skip: noSources }, async () => {
  const { LIBRARY_KERNELS } = (await import(pathToFileURL(script).href)) as { LIBRARY_KERNELS: string[] };
  const folder = join(SOURCES, "kernels");
  const names = readdirSync(folder).flatMap((name) => {
    const text = readFileSync(join(folder, name), "utf8");
    return [...text.matchAll(/(?:KERNEL|__launch_bounds__\([^)]*\)) (\w+)\(/g)].map(([, kernel]) => kernel!);
  });
  assert.ok(names.length > 40 && names.includes("attention_grad_kv") && names.includes("rope"), names.join(" "));
  for (const part of LIBRARY_KERNELS)
    assert.deepEqual(
      names.filter((name) => name.includes(part)),
      [],
    );
});

test("racecheck runs less of attention, and all of its kernels", { skip: noSources }, () => {
  const template = ["attention over $", "{TOKENS} packed tokens, heads of $", "{headDim}, $", "{label} (CUDA)"].join(
    "",
  );
  assert.ok(readFileSync(join(SOURCES, "kernels.test.ts"), "utf8").includes(template));
  const masks = ["causal", "window, soft-cap", "both directions"];
  const heads = [64, 96, 128, 256];
  const names = heads.flatMap((headDim) =>
    masks.map((mask) => `attention over 1024 packed tokens, heads of ${headDim}, ${mask} (CUDA)`),
  );
  const kernels = [...names, "dropout draws the CPU's masks (CUDA)"]
    .map((name) => `test(${JSON.stringify(name)}, () => {});`)
    .join("\n");
  const ran = (tool: string): string[] => {
    const { log } = run({ kernels }, [`--sanitize=${tool}`], { SUMMARY: "========= ERROR SUMMARY: 0 errors" });
    return [...log.matchAll(/^ok +\d+ ms {2}(.*)$/gm)].map(([, name]) => name!);
  };
  assert.equal(ran("memcheck").length, 13);
  const chosen = ran("racecheck");
  assert.ok(chosen.includes("dropout draws the CPU's masks (CUDA)"), chosen.join("\n"));
  const shapes = chosen.flatMap((name) => {
    const [, headDim, mask] = /heads of (\d+), (.*) \(CUDA\)/.exec(name) ?? [];
    // cuDNN may take what is causal, without a soft-cap and of heads of up to 128.
    return headDim === undefined || (mask === "causal" && Number(headDim) <= 128) ? [] : [Number(headDim)];
  });
  assert.ok(shapes.length < 5 && chosen.some((name) => name.includes("soft-cap")));
  for (const capability of [75, 80, 86, 90, 120]) {
    const tiles = (headDim: number): string[] => {
      const found = tileKernels("f16", headDim, 0, capability);
      if (!found) return [];
      return [found.forward, found.gradQ, ...found.gradKv].map(({ file, defines: { D: _, ...shape } }) =>
        JSON.stringify([file, shape]),
      );
    };
    assert.deepEqual(new Set(shapes.flatMap(tiles)), new Set(shapes.flatMap(tiles).concat(heads.flatMap(tiles))));
  }
});

test("a second pass runs the tests that launch kernels, the card used as an older one", { skip }, () => {
  // Fails in a pass that it is not for.
  const on = (capability: string) => `if (process.env.UNSLOTH_CUDA_PTX !== "${capability}") throw new Error("other");`;
  const own = `${LAUNCHES}\ntest("on its own (CUDA, bf16)", { skip: !!process.env.UNSLOTH_CUDA_PTX }, () => { ${on("")} });`;
  const files = {
    launching: `${own}\ntest("in both (CUDA)", () => {});\ntest("host", () => { ${on("")} });`,
    "no.launch": `test("host", () => { ${on("")} });`,
  };
  // What a pattern leaves out is skipped, or not told of, depending on Node.js.
  const second =
    /\nas compute capability 7\.5, kernels as PTX:\nlaunching\.test\.js: 1 passed, 0 failed, \d skipped\n1 passed/;
  const both = run(files, []);
  assert.equal(both.status, 0, both.stdout);
  assert.match(both.stdout, /no\.launch\.test\.js: 1 passed.*\n4 passed, 0 failed, 0 skipped\n/);
  assert.match(both.stdout, second);
  assert.match(both.log, /skip .*on its own \(CUDA, bf16\)\n.*ok .*in both \(CUDA\)[\s\S]*1 passed, 0 failed/);
  const first = run(files, ["--ptx", "none"], { UNSLOTH_CUDA_PTX: "7.5" });
  assert.equal(first.status, 0, first.stdout);
  assert.doesNotMatch(first.stdout, /as compute capability/);
  const other = run({ eight: `${LAUNCHES}\ntest("a (CUDA)", () => { ${on("8.0")} });`, fine: PASSING }, [
    "--ptx",
    "8.0",
  ]);
  assert.equal(other.status, 0, other.stdout);
  assert.match(other.stdout, /^as compute capability 8\.0, kernels as PTX:\neight.*: 1 passed.*\n1 passed.*\n$/);
});

test("a second pass that fails, or that is asked for and runs nothing, is no success", { skip }, () => {
  const failing = `${LAUNCHES}\ntest("a (CUDA)", () => { if (process.env.UNSLOTH_CUDA_PTX) throw new Error("no ldmatrix"); });`;
  const wrong = run({ failing, fine: PASSING }, []);
  assert.equal(wrong.status, 1, wrong.stdout);
  assert.match(wrong.stdout, /2 passed, 0 failed[\s\S]*no ldmatrix[\s\S]*0 passed, 1 failed/);
  for (const body of [PASSING, `${LAUNCHES}\ntest("skipped (CUDA)", { skip: true }, () => {});`]) {
    const none = run({ body }, ["--ptx", "7.5"]);
    assert.equal(none.status, 1, none.stdout);
    assert.match(none.stdout, /no test ran/);
  }
  for (const words of [["--ptx", "old"], ["--ptx="]]) assert.equal(run({ fine: PASSING }, words).status, 2);
  const sanitized = { SUMMARY: "========= ERROR SUMMARY: 0 errors" };
  const ops = `${LAUNCHES}\n${PASSING}`;
  assert.doesNotMatch(run({ ops }, ["--sanitize"], sanitized).stdout, /as compute/);
  assert.match(
    run({ ops }, ["--sanitize", "--ptx", "7.5"], sanitized).stdout,
    /as compute.*\n[\s\S]*memcheck: 0 errors/,
  );
});
