// The suite's results as JSON and as Markdown tables.
import { writeFileSync } from "node:fs";
import { join } from "node:path";

const number = (value, digits = 3) =>
  typeof value !== "number"
    ? ""
    : value >= 1000
      ? Math.round(value).toLocaleString("en-US")
      : String(Number(value.toPrecision(digits)));
const percent = (value) => (typeof value === "number" ? `${(100 * value).toFixed(1)}%` : "");

function table(heading, columns, rows) {
  if (rows.length === 0) return "";
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const body = rows.map((row) =>
    row.error
      ? line([...columns.slice(0, 2).map(([, cell]) => cell(row)), row.error.replaceAll(/\s+/g, " ").slice(0, 160)])
      : line(columns.map(([, cell]) => cell(row))),
  );
  const head = [line(columns.map(([name]) => name)), line(columns.map(() => "---"))];
  return `## ${heading}\n\n${[...head, ...body].join("\n")}\n\n`;
}

const SECTIONS = [
  [
    "steps",
    "Training steps: NF4 QLoRA, r 16 on all linears, 8-bit AdamW; forward, backward and update",
    [
      ["model", (r) => r.model + (r.fp8 ? ", fp8 products" : "")],
      ["case", (r) => r.case],
      ["ms", (r) => number(r.medianMs, 4)],
      ["slowest / median", (r) => number(r.slowestOverMedian)],
      ["tokens/s", (r) => number(r.tokensPerSecond, 5)],
      ["peak GiB", (r) => number(r.peakGiB)],
      ["used GiB", (r) => number(r.usedGiB)],
      ["host GiB", (r) => number(r.hostGiB)],
      ["share of floor", (r) => percent(r.shareOfFloor)],
    ],
  ],
  [
    "rivals",
    "Others at the same shapes: gradient checkpointing, AdamW",
    [
      ["who", (r) => r.who],
      ["model, case", (r) => [r.model, r.case].filter(Boolean).join(" ")],
      ["ms", (r) => number(r.medianMs, 4)],
      ["slowest / median", (r) => number(r.slowestOverMedian)],
      ["tokens/s", (r) => number(r.tokensPerSecond, 5)],
      ["peak GiB", (r) => number(r.peakGiB)],
      ["reserved GiB", (r) => number(r.reservedGiB)],
    ],
  ],
  [
    "dpo",
    "DPO steps: LoRA r 16 on all linears, the reference without it, 32-bit AdamW; tokens without padding",
    [
      ["who", (r) => r.who],
      ["model, case", (r) => `${r.model} ${r.case}`],
      ["ms", (r) => number(r.medianMs, 4)],
      ["slowest / median", (r) => number(r.slowestOverMedian)],
      ["tokens/s", (r) => number(r.tokensPerSecond, 5)],
      ["peak GiB", (r) => number(r.peakGiB)],
      ["reserved GiB", (r) => number(r.reservedGiB)],
      ["first loss", (r) => number(r.firstLoss, 6)],
      ["logps/chosen", (r) => number(r.logpsChosen, 6)],
    ],
  ],
  [
    "ppo",
    "PPO updates: generation, scores and one epoch of training; case: prompts x their tokens + response tokens",
    [
      ["who", (r) => r.who],
      ["model, case", (r) => `${r.model} ${r.case}`],
      ["s an update", (r) => number(r.secondsPerUpdate)],
      ["of it generation", (r) => number(r.generationSeconds)],
      ["tokens/s", (r) => number(r.tokensPerSecond, 5)],
      ["peak GiB", (r) => number(r.peakGiB)],
      ["reserved GiB", (r) => number(r.reservedGiB)],
      ["first KL", (r) => number(r.firstKl)],
      ["first ratio", (r) => number(r.firstRatio, 5)],
    ],
  ],
  [
    "first step",
    "From the start of the process to the end of the first step",
    [
      ["who", (r) => r.who],
      ["model, case", (r) => `${r.model} ${r.case}`],
      ["seconds", (r) => number(r.seconds.firstStep)],
      [
        "of these until",
        (r) =>
          Object.entries(r.seconds)
            .map(([what, s]) => `${what} ${number(s)}`)
            .join(", "),
      ],
    ],
  ],
  [
    "longest",
    "Longest sequence whose step is planned to fit (least memory, batch 1)",
    [
      ["model", (r) => r.model],
      ["memory", (r) => `${r.gib} GiB`],
      ["offloading", (r) => (r.offload ? "yes" : "no")],
      ["tokens", (r) => `${r.atLeast ? "≥ " : ""}${number(r.length, 7)}`],
      ["GiB of it", (r) => number(r.planGiB)],
      ["host GiB", (r) => number(r.hostGiB)],
    ],
  ],
  [
    "long check",
    "Kernels at lengths beyond 2^31 elements",
    [
      ["model", (r) => `${r.model}, ${r.layers} layers`],
      ["tokens", (r) => number(r.tokens, 7)],
      ["what", (r) => r.what],
      ["loss", (r) => r.losses.map((loss) => number(loss, 6)).join(" and ")],
      ["worst gradient error", (r) => (r.worstGradientError === undefined ? "" : number(r.worstGradientError))],
      ["s", (r) => number(r.seconds)],
      ["peak GiB", (r) => number(r.peakGiB)],
    ],
  ],
  [
    "trajectory",
    "Fifty LoRA steps of the embedded model over the same batches",
    [
      ["who", (r) => r.who],
      ["first loss", (r) => number(r.first, 6)],
      ["mean of the last ten", (r) => number(r.lastTenMean, 6)],
      ["largest difference", (r) => number(r.largestDifference)],
      ["against", (r) => r.against ?? ""],
    ],
  ],
  [
    "quickstart",
    "Exact answers of the quickstart's model after training on the GPU",
    [
      ["who", (r) => r.who],
      ["of", (r) => r.problems],
      ["epochs", (r) => r.epochs],
      ["seeds", (r) => r.seeds.length],
      ["right, mean", (r) => percent(r.accuracy)],
      ["of each", (r) => r.accuracies.map(percent).join(", ")],
      ["training, s", (r) => number(r.trainSeconds)],
      ["answering, s", (r) => number(r.answerSeconds)],
    ],
  ],
  [
    "attention",
    "Attention of one layer",
    [
      ["who", (r) => r.who],
      ["model, case", (r) => `${r.model} ${r.case}`],
      ["forward ms", (r) => number(r.forwardMs)],
      ["backward ms", (r) => number(r.backwardMs)],
    ],
  ],
  [
    "kernels",
    "Kernels",
    [
      ["kernel", (r) => r.kernel],
      ["ms", (r) => number(r.ms)],
      ["GB/s", (r) => number(r.gigabytesPerSecond, 4)],
      ["share of a copy", (r) => percent(r.shareOfCopy)],
      ["TFLOP/s", (r) => number(r.teraflops)],
    ],
  ],
  [
    "failed",
    "Not measured",
    [
      ["what", (r) => r.what],
      ["", () => ""],
      ["why", (r) => r.error],
    ],
  ],
];

function breakdownTable(rows) {
  const kinds = [...new Set(rows.flatMap((row) => Object.keys(row.breakdownMs)))];
  const columns = [
    ["model", (r) => r.model],
    ["case", (r) => r.case],
    ...kinds.map((kind) => [kind, (r) => number(r.breakdownMs[kind])]),
    ["floor: products", (r) => number(r.floorMs?.products)],
    ["attention", (r) => number(r.floorMs?.attention)],
    ["traffic", (r) => number(r.floorMs?.traffic)],
  ];
  return table(
    "Where a step's milliseconds go (kernels run one by one), and its floor (bench/gpu/floor.mjs)",
    columns,
    rows,
  );
}

/** Write gpu.json and gpu.md; tables that other benches made themselves are not repeated. */
export function report(results, about) {
  const folder = process.env.OUT ?? ".";
  writeFileSync(join(folder, "gpu.json"), `${JSON.stringify({ about, results }, null, 1)}\n`);
  const tables = SECTIONS.map(([section, heading, columns]) =>
    table(
      heading,
      columns,
      results.filter((row) => row.section === section),
    ),
  );
  const timed = results.filter((row) => row.breakdownMs);
  const text = `# GPU benchmark\n\n${tables[0]}${timed.length > 0 ? breakdownTable(timed) : ""}${tables.slice(1).join("")}`;
  writeFileSync(join(folder, "gpu.md"), text);
  console.log(`\n${text}`);
}
