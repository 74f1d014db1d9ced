// npm run test:gpu [-- NAME …] [-- --ptx 7.5|none] [-- --jobs N] [-- --sanitize[=TOOL]] [-- --pattern REGEX] [-- --limit SECONDS]
//
// The CUDA backend's tests (conformance of every op, kernels, families, trajectories) on this machine's GPU; with names only
// the files whose names contain one. Runs the compiled tests in dist/, a process each, --jobs of them side by side (a
// quarter of the cores, at most 4). With OUT set, the full log goes there, too.
// Two passes: all of it with kernels for the card itself, then the tests that launch kernels with the card used as one of
// compute capability 7.5 (UNSLOTH_CUDA_PTX): f16 for bf16, kernels as PTX. --ptx 8.0 is such a pass for another capability
// and nothing else, --ptx none the first pass alone, which --sanitize is, too, unless it comes with --ptx.
// "compile", which compiles every kernel for old and new cards and needs NVRTC but no GPU, runs only when it is named.
// --sanitize runs the files that launch every own kernel, in f32, bf16 and f16, under NVIDIA's compute-sanitizer (memcheck:
// reads and writes out of bounds; --sanitize=racecheck: races in shared memory), which the CUDA toolkit brings. A race is within
// one kernel, so that those of NVIDIA's libraries are none of ours: they are counted apart. (Leaving such kernels out by
// --kernel-name-exclude ends in an error of the sanitizer itself, 2025.3.)
// A file that ends without tests, by a signal, or after --limit (240 s; 540 s under the sanitizer) has failed.
import { spawn } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

/** Reporter of the test processes (--test-reporter): a line of JSON for every test. */
export default async function* reporter(events) {
  for await (const { type, data } of events) {
    if ((type !== "test:pass" && type !== "test:fail") || data.details?.type === "suite") continue;
    const error = data.details?.error?.cause ?? data.details?.error;
    const skipped = data.skip !== undefined && data.skip !== false;
    const { name } = data;
    const result = type === "test:fail" ? "FAILED" : skipped ? "skip" : "ok";
    const text = error ? String(error.stack ?? error) : "";
    yield `${JSON.stringify({ name, result, ms: data.details?.duration_ms ?? 0, text, message: String(error?.message ?? error) })}\n`;
  }
}

/** Files that launch every own kernel on small arrays, and the tests of them that do no more than that: by tool, or for all. */
const SANITIZED = {
  "ops.": "",
  // Under racecheck attention over a thousand tokens takes half a minute. These have all tiles there are, with a soft-cap and
  // without, and cuDNN takes none of them.
  "kernels.": { racecheck: "^(?! ?attention over).*\\(CUDA|heads of (64, window|128, both|256, causal)" },
  "groups.": "",
  "head.": "",
  "decode.": "few rows|against a cache|draws",
  "fp8.": "",
};

/** What names of kernels in cuBLASLt and cuDNN contain, and those of own ones do not. */
export const LIBRARY_KERNELS = [
  "nvjet",
  "cublas",
  "cudnn",
  "cutlass",
  "xmma",
  "ampere_",
  "turing_",
  "volta_",
  "splitKreduce",
];

/** How the sanitizer ends where a process that did well has errors. */
const FOUND_ERRORS = 9;
/** racecheck: no report held back by those before it. */
const TOOL_OPTIONS = { racecheck: ["--print-limit", "0"] };
const EXIT_OPTIONS = ["--error-exitcode", String(FOUND_ERRORS), "--launch-timeout", "0"];

/** Capability of the second pass: Turing's, the oldest that every NVRTC knows. */
const PTX = "7.5";
/** What the tests that launch kernels have in their names, and their compiled files import. */
const [GPU_TESTS, GPU_FILES] = ["\\(CUDA", "gpu.test.support.js"];

if (process.argv[1] === import.meta.filename) process.exitCode = await main();

async function main() {
  const words = process.argv.slice(2).map((word) => (word === "--sanitize" ? "--sanitize=memcheck" : word));
  const { values, positionals: names } = parseArgs({
    args: words,
    allowPositionals: true,
    options: {
      jobs: { type: "string" },
      sanitize: { type: "string" },
      ptx: { type: "string" },
      pattern: { type: "string" },
      limit: { type: "string" },
    },
  });
  if (values.ptx !== undefined && !/^(none|\d{1,2}\.\d|\d{2,3})$/.test(values.ptx)) {
    console.log(`--ptx is ${values.ptx}; it must be a compute capability, such as ${PTX}, or none`);
    return 2;
  }
  const jobs = whole("jobs", values.jobs ?? Math.max(1, Math.min(4, Math.floor(availableParallelism() / 4))));
  const seconds = whole("limit", values.limit ?? (values.sanitize ? 540 : 240));
  const folder = join(import.meta.dirname, "../dist/backends/cuda");
  const defaults = (name) =>
    values.sanitize ? Object.keys(SANITIZED).some((start) => name.startsWith(start)) : !name.startsWith("compile.");
  const isWanted = (name) => (names.length === 0 ? defaults(name) : names.some((part) => name.includes(part)));
  const files = readdirSync(folder)
    .filter((name) => name.endsWith(".test.js") && isWanted(name))
    .sort();
  const sanitizer = values.sanitize ? findSanitizer() : null;
  if (values.sanitize && !sanitizer) {
    console.log(
      "compute-sanitizer is neither in PATH nor in a CUDA toolkit (CUDA_HOME, /usr/local/cuda*): nothing was checked",
    );
    return 1;
  }
  const prefix = sanitizer
    ? [sanitizer, "--tool", values.sanitize, ...(TOOL_OPTIONS[values.sanitize] ?? []), ...EXIT_OPTIONS]
    : [];
  const patternOf = (name) => {
    if (values.pattern !== undefined || !values.sanitize) return values.pattern ?? "";
    const pattern = Object.entries(SANITIZED).find(([start]) => name.startsWith(start))?.[1] ?? "";
    return typeof pattern === "string" ? pattern : (pattern[values.sanitize] ?? "");
  };

  const log = process.env.OUT ? join(process.env.OUT, "test-gpu.log") : null;
  if (log) writeFileSync(log, "");
  const launching = files.filter((name) => readFileSync(join(folder, name), "utf8").includes(GPU_FILES));
  const { ptx = values.sanitize ? "none" : undefined } = values;
  const common = { folder, prefix, seconds, patternOf, jobs, log, tool: sanitizer && values.sanitize };
  let wrong = 0;
  if (ptx === undefined || ptx === "none") wrong += await pass({ ...common, files, ptx: null });
  // Files that launch nothing need no second pass, but are none when it is asked for.
  if (ptx === undefined ? launching.length > 0 : ptx !== "none")
    wrong += await pass({ ...common, files: launching, ptx: ptx ?? PTX });
  return wrong > 0 ? 1 : 0;
}

/** Runs files with kernels for the card itself, or (ptx) used as one of another capability; 0 when all is well. */
async function pass({ files, folder, prefix, seconds, patternOf, jobs, log, tool, ptx }) {
  const say = (line) => {
    console.log(line);
    if (log) appendFileSync(log, `${line}\n`);
  };
  if (ptx !== null) say(`as compute capability ${ptx}, kernels as PTX:`);
  const scratch = mkdtempSync(join(tmpdir(), "test-gpu-"));
  const total = noCounts();
  const finished = new Map();
  let reported = 0;
  // In the files' order, however they end.
  const report = () => {
    for (let next = finished.get(reported); next; next = finished.get(++reported)) {
      for (const key of Object.keys(total)) total[key] += next.counts[key];
      process.stdout.write(next.short);
      if (log) appendFileSync(log, next.full);
    }
  };
  let started = 0;
  const worker = async () => {
    while (started < files.length) {
      const at = started++;
      const name = files[at];
      const run = await runFile({
        file: join(folder, name),
        results: join(scratch, `${at}.jsonl`),
        prefix,
        seconds,
        pattern: patternOf(name) || (ptx === null ? "" : GPU_TESTS),
        env: { UNSLOTH_CUDA_PTX: ptx ?? "" },
      });
      finished.set(at, summary(name, run, tool !== null));
      report();
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  rmSync(scratch, { recursive: true, force: true });

  const found = tool ? `, ${tool}: ${errorsText(total)}` : "";
  const broken = total.broken > 0 ? `, ${total.broken} of ${files.length} files did not end as they should` : "";
  say(`${total.ok} passed, ${total.FAILED} failed, ${total.skip} skipped${found}${broken}`);
  if (total.ok === 0) say("no test ran");
  return total.ok === 0 || total.FAILED + total.errors + total.broken > 0 ? 1 : 0;
}

function whole(name, text) {
  const number = Number(text);
  if (Number.isInteger(number) && number >= 1) return number;
  console.log(`--${name} is ${text}; it must be a whole number from 1`);
  process.exit(2);
}

/** Runs a test file in a process group of its own; what it printed, its tests' results, and how it ended. */
function runFile({ file, results, prefix, seconds, pattern, env: more }) {
  const reporting = [
    `--test-reporter=${pathToFileURL(import.meta.filename)}`,
    `--test-reporter-destination=${results}`,
  ];
  const filter = pattern ? [`--test-name-pattern=${pattern}`] : [];
  const [command, ...args] = [...prefix, process.execPath, ...reporting, ...filter, file];
  return new Promise((resolve) => {
    const env = { ...process.env, UNSLOTH_TEST_GPU: "1", ...more };
    // Under a test runner itself, its processes would report to that one.
    delete env.NODE_TEST_CONTEXT;
    const child = spawn(command, args, { env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    let late = false;
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (text) => (output += text));
    const timer = setTimeout(() => {
      late = true;
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        child.kill("SIGKILL");
      }
    }, 1000 * seconds);
    const end = (how) => {
      clearTimeout(timer);
      const lines = existsSync(results) ? readFileSync(results, "utf8").split("\n").filter(Boolean) : [];
      // A process that was killed may have left half a line.
      const tests = lines.flatMap((line) => (line.endsWith("}") ? [JSON.parse(line)] : []));
      resolve({ output, tests, ...how, late: late && seconds });
    };
    child.on("error", (error) => end({ code: null, signal: error.message }));
    child.on("close", (code, signal) => end({ code, signal }));
  });
}

/** One file's counts, and its lines: the short ones of the terminal, and all. */
function summary(name, { output, tests, code, signal, late }, sanitized) {
  const counts = noCounts();
  const [short, full] = [[], [`# ${name}`]];
  for (const { name: test, result, ms, text, message } of tests) {
    counts[result]++;
    const line = `${result.padEnd(6)} ${ms.toFixed(0).padStart(6)} ms  ${test}`;
    full.push(line, ...(result === "FAILED" ? [`    ${text}`] : []));
    if (result === "FAILED" && counts.FAILED <= 20) short.push(`${line}: ${message.slice(0, 300)}`);
  }
  const problems = [];
  if (late) problems.push(`it was not done after ${late} s`);
  else if (code === null) problems.push(`its process ended by ${signal}`);
  else if (code !== 0 && counts.FAILED === 0 && !sanitized) problems.push(`its process ended with ${code}`);
  if (counts.ok + counts.FAILED + counts.skip === 0) problems.push("it ran no test");
  if (sanitized) {
    const found = [...output.matchAll(/(?:ERROR|RACECHECK) SUMMARY: (\d+) /g)];
    const errors = found.reduce((sum, [, count]) => sum + Number(count), 0);
    counts.library = Math.min(errors, libraryRaces(output));
    counts.errors = errors - counts.library;
    const expected = counts.library > 0 ? [0, FOUND_ERRORS] : [0];
    if (found.length === 0 && !late) problems.push("the sanitizer gave no summary");
    else if (!expected.includes(code) && counts.FAILED + counts.errors === 0 && !late)
      problems.push(`it ended with ${code}`);
  }
  counts.broken = problems.length > 0 ? 1 : 0;
  const ending = problems.length > 0 ? `; ${problems.join("; ")}` : "";
  const errors = sanitized ? `, ${errorsText(counts)}` : "";
  const last = `${name}: ${counts.ok} passed, ${counts.FAILED} failed, ${counts.skip} skipped${errors}${ending}`;
  const printed = output.trim() === "" ? [] : [output.trimEnd()];
  const wrong = counts.broken + counts.errors > 0;
  const tail = wrong ? printed.map((text) => text.slice(-4000)) : printed.map((text) => text.slice(0, 2000));
  return {
    counts,
    short: `${[...tail, ...short, last].join("\n")}\n`,
    full: `${[...full, ...printed, last].join("\n")}\n`,
  };
}

function noCounts() {
  return { ok: 0, FAILED: 0, skip: 0, errors: 0, library: 0, broken: 0 };
}

function errorsText({ errors, library }) {
  return `${errors} errors${library > 0 ? ` (and ${library} in NVIDIA's libraries)` : ""}`;
}

/** Reports of racecheck all of whose accesses are in kernels of NVIDIA's libraries. */
function libraryRaces(output) {
  const reports = output.matchAll(/^=+ (?:\w+: )?Race reported between .*(?:\n=+ +and \w+ access at .*)*/gm);
  return [...reports].filter(([report]) => {
    const accesses = report.split(/\bbetween |\band (?=\w+ access at )/).slice(1);
    return accesses.every((access) => LIBRARY_KERNELS.some((name) => access.includes(name)));
  }).length;
}

function findSanitizer() {
  const { PATH = "", CUDA_HOME, CUDA_PATH } = process.env;
  const roots = [CUDA_HOME, CUDA_PATH, ...cudaFolders()].filter(Boolean);
  const folders = [
    ...PATH.split(delimiter),
    ...roots.flatMap((root) => [join(root, "bin"), join(root, "compute-sanitizer")]),
  ];
  return folders
    .filter(Boolean)
    .map((folder) => join(folder, "compute-sanitizer"))
    .find((path) => statSync(path, { throwIfNoEntry: false })?.isFile());
}

/** /usr/local/cuda, then the versions beside it, the newest first. */
function cudaFolders() {
  const local = "/usr/local";
  const names = existsSync(local) ? readdirSync(local).filter((name) => name.startsWith("cuda")) : [];
  return names
    .sort((a, b) => (a === "cuda" ? -1 : b === "cuda" ? 1 : b.localeCompare(a, "en", { numeric: true })))
    .map((name) => join(local, name));
}
