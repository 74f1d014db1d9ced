// npm run quickstart: fine-tunes the embedded model and writes a report. See docs/quickstart.md.
import { join } from "node:path";
import { parseArgs } from "node:util";
import { TrainingInterrupted } from "../train/interrupt.ts";
import { quickstart } from "./quickstart.ts";

function count(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d+$/.test(text)) throw new Error(`--${name}: found "${text}"; expected a whole number`);
  return Number(text);
}

async function main(): Promise<void> {
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
  const maxSteps = count("max-steps", values["max-steps"]);
  const seed = count("seed", values.seed);
  const report = await quickstart({
    output: values.output,
    ...(maxSteps !== undefined && { maxSteps }),
    ...(seed !== undefined && { seed }),
    threads: count("threads", values.threads),
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
}

try {
  await main();
} catch (error) {
  // Messages are made for people; stacks are not.
  const interrupted = error instanceof TrainingInterrupted;
  const said = interrupted
    ? `stopped after step ${error.step}`
    : error instanceof Error
      ? error.message
      : String(error);
  console.error(process.env.UNSLOTH_DEBUG === "1" ? error : `quickstart: ${said}`);
  process.exitCode = interrupted ? error.exitCode : 1;
}
