// npm run quickstart: fine-tunes the embedded model and writes a report. See docs/quickstart.md.
import { join } from "node:path";
import { parseArgs } from "node:util";
import { quickstart } from "./quickstart.ts";

const { values } = parseArgs({
  options: {
    output: { type: "string", default: join("outputs", "quickstart") },
    "max-steps": { type: "string" },
    seed: { type: "string" },
    threads: { type: "string" },
    /** Use the WebAssembly build of the kernels. */
    wasm: { type: "boolean", default: false },
  },
});

function count(name: "max-steps" | "seed" | "threads"): number | undefined {
  const text = values[name];
  if (text === undefined) return undefined;
  if (!/^\d+$/.test(text)) throw new Error(`--${name}: found "${text}"; expected a whole number`);
  return Number(text);
}

const [maxSteps, seed, threads] = [count("max-steps"), count("seed"), count("threads")];
const report = await quickstart({
  output: values.output,
  ...(maxSteps !== undefined && { maxSteps }),
  ...(seed !== undefined && { seed }),
  threads,
  prefer: values.wasm ? "wasm" : undefined,
});
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
console.log(
  `exact answers: ${percent(report.accuracyBefore)} before, ${percent(report.accuracyAfter)} after; ` +
    `loss ${report.lossFirst.toFixed(3)} → ${report.lossLast.toFixed(3)}; ${Math.round(report.tokensPerSecond)} tokens/s; ` +
    `${report.seconds.toFixed(0)} s`,
);
console.log(
  `written: ${["adapter/", "report.json", "report.html"].map((name) => join(values.output, name)).join(", ")}`,
);
