import type { Sample } from "./evaluate.ts";
import { drawLossCurve } from "./loss-curve.ts";

/** What report.json holds. */
export interface QuickstartReport {
  /** Share of held-out problems whose final answer is exactly right. */
  readonly accuracyBefore: number;
  readonly accuracyAfter: number;
  /** Loss of the first and of the last step. */
  readonly lossFirst: number;
  readonly lossLast: number;
  /** Of the training. */
  readonly tokensPerSecond: number;
  /** Most bytes of tensors and activations at a time, and of the whole process. */
  readonly peakBytes: number;
  readonly peakProcessBytes: number;
  /** All in all, and by part. */
  readonly seconds: number;
  readonly secondsBefore: number;
  readonly secondsTraining: number;
  readonly secondsAfter: number;
  readonly trainRows: number;
  readonly testProblems: number;
  readonly steps: number;
  readonly trainedParameters: number;
  readonly modelParameters: number;
  readonly backend: string;
}

export interface ReportPage {
  readonly report: QuickstartReport;
  readonly losses: readonly number[];
  /** drawMemory's SVG of one training step. */
  readonly memory: string;
  readonly before: readonly Sample[];
  readonly after: readonly Sample[];
}

const SHOWN = 6;

/** A page that needs nothing beside it: figures, loss curve, memory plan, and answers before and after. */
export function reportPage({ report, losses, memory, before, after }: ReportPage): string {
  const rows = Object.entries(report).map(
    ([name, value]) => `<tr><th>${name}</th><td>${escaped(shown(value))}</td></tr>`,
  );
  const samples = before.slice(0, SHOWN).map((sample, i) => comparison(sample, after[i]!));
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Quickstart</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #111827; }
  table { border-collapse: collapse; } th, td { text-align: left; padding: 0.2rem 1rem 0.2rem 0; vertical-align: top; }
  pre { white-space: pre-wrap; margin: 0; font: 13px/1.4 ui-monospace, monospace; }
  .samples td, .samples th { border-top: 1px solid #e5e7eb; padding: 0.5rem 1rem 0.5rem 0; width: 33%; }
  .right { color: #15803d; } .wrong { color: #b91c1c; } svg { max-width: 100%; }
</style>
<h1>${percent(report.accuracyBefore)} → ${percent(report.accuracyAfter)}</h1>
<p>Exact answers to ${report.testProblems} held-out problems before and after fine-tuning with QLoRA on ${report.trainRows} rows,
in ${report.seconds.toFixed(0)} seconds.</p>
<h2>Loss</h2>
${drawLossCurve(losses)}
<h2>Memory of one training step</h2>
${memory}
<h2>Answers</h2>
<table class="samples"><tr><th>Problem</th><th>Before</th><th>After</th></tr>
${samples.join("\n")}
</table>
<h2>Figures</h2>
<table>${rows.join("\n")}</table>
</html>
`;
}

function comparison(before: Sample, after: Sample): string {
  const answer = ({ output, correct }: Sample): string =>
    `<td><pre class="${correct ? "right" : "wrong"}">${escaped(output)}</pre></td>`;
  return `<tr><td><pre>${escaped(before.input)}</pre></td>${answer(before)}${answer(after)}</tr>`;
}

function shown(value: string | number): string {
  return typeof value === "string" || Number.isInteger(value) ? String(value) : value.toPrecision(4);
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const escaped = (text: string): string => text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
