import type { BudgetSchedule } from "../../peft/index.ts";

/** Ranks of all modules from the update of a step (counted from 0) on. */
export interface Allocation {
  readonly step: number;
  readonly ranks: readonly number[];
}

/** Allocations as JSON has them. Throws TypeError when they are not of `modules` modules. */
export function allocationsFromJson(json: unknown, modules: number): Allocation[] {
  const isCount = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 0;
  const isAllocation = ({ step, ranks }: Allocation): boolean =>
    isCount(step) && Array.isArray(ranks) && ranks.length === modules && ranks.every(isCount);
  if (Array.isArray(json) && json.every(isAllocation)) return json as Allocation[];
  throw new TypeError(`expected steps with the ranks of ${modules} modules each`);
}

const ROW = 14;
const PLOT_WIDTH = 640;
const TOP = 58;
const LETTER = 6.2;

/**
 * A drawing of ranks by module over the training, as SVG: a row a module, time from left to right, darker for a higher
 * rank, the rank in the end beside it. Hovering over a stretch tells its steps and rank.
 */
export function rankPlot(
  paths: readonly string[],
  allocations: readonly Allocation[],
  schedule: BudgetSchedule,
): string {
  const { totalStep, initial } = schedule;
  const initR = initial / paths.length;
  const labels = paths.map((path) => path.replace(/^model\./, ""));
  const left = 16 + LETTER * Math.max(...labels.map(({ length }) => length));
  const [width, height] = [left + PLOT_WIDTH + 48, TOP + ROW * paths.length + 52];
  const x = (step: number): number => round(left + (PLOT_WIDTH * Math.min(step, totalStep)) / totalStep);
  const rows = labels.map((label, i) => {
    const y = TOP + ROW * i;
    const spans = stretches(allocations, i, initR, totalStep).map(({ from, to, rank }) => {
      const title = `${label}: rank ${rank}, steps ${from} to ${to}`;
      const shape = `x="${x(from)}" y="${y}" width="${round(x(to) - x(from))}" height="${ROW - 1}"`;
      return `<rect ${shape} fill="${colour(rank / initR)}"><title>${escaped(title)}</title></rect>`;
    });
    const last = allocations.at(-1)?.ranks[i] ?? initR;
    return [
      `<text x="${left - 8}" y="${y + ROW - 4}" text-anchor="end">${escaped(label)}</text>`,
      ...spans,
      `<text x="${left + PLOT_WIDTH + 8}" y="${y + ROW - 4}">${last}</text>`,
    ].join("\n");
  });
  const bottom = TOP + ROW * paths.length;
  const ticks = tickSteps(totalStep).map(
    (step) =>
      `<line x1="${x(step)}" y1="${bottom}" x2="${x(step)}" y2="${bottom + 4}" stroke="#888"/>` +
      `<text x="${x(step)}" y="${bottom + 16}" text-anchor="middle">${step}</text>`,
  );
  const phases = [
    { step: schedule.tinit, name: "pruning begins" },
    { step: totalStep - schedule.tfinal, name: "ranks are final" },
  ].filter(({ step }) => step > 0 && step < totalStep);
  const marks = phases.map(
    ({ step, name }) =>
      `<line x1="${x(step)}" y1="${TOP - 4}" x2="${x(step)}" y2="${bottom}" stroke="#333" stroke-dasharray="3 3">` +
      `<title>${name}: step ${step}</title></line>`,
  );
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${round(width)} ${height}" width="${round(width)}" height="${height}" font-family="sans-serif" font-size="10" fill="#222">`,
    `<rect width="100%" height="100%" fill="#fff"/>`,
    `<text x="16" y="20" font-size="14">AdaLoRA: rank of each module over ${totalStep} steps</text>`,
    legend(left, initR),
    ...rows,
    ...marks,
    ...ticks,
    `<text x="${left + PLOT_WIDTH / 2}" y="${bottom + 34}" text-anchor="middle">step</text>`,
    `<text x="${left + PLOT_WIDTH + 8}" y="${TOP - 8}">end</text>`,
    "</svg>",
  ].join("\n")}\n`;
}

/** The times a module had one rank. */
function stretches(
  allocations: readonly Allocation[],
  module: number,
  initR: number,
  totalStep: number,
): { from: number; to: number; rank: number }[] {
  const all = [{ from: 0, to: totalStep, rank: initR }];
  for (const { step, ranks } of allocations) {
    const last = all.at(-1)!;
    // An allocation holds from the next step on.
    if (ranks[module] === last.rank || step + 1 >= totalStep) continue;
    last.to = step + 1;
    all.push({ from: step + 1, to: totalStep, rank: ranks[module]! });
  }
  return all;
}

function legend(left: number, initR: number): string {
  const ranks = Array.from({ length: Math.min(initR, 8) + 1 }, (_, i) => Math.round((i * initR) / Math.min(initR, 8)));
  const boxes = ranks.map((rank, i) => {
    const at = left + 40 + 34 * i;
    return `<rect x="${at}" y="28" width="12" height="12" fill="${colour(rank / initR)}" stroke="#bbb"/><text x="${at + 16}" y="38">${rank}</text>`;
  });
  return `<text x="${left}" y="38">rank</text>${boxes.join("")}`;
}

/** Pale for 0 to dark blue for 1, evenly in lightness. */
function colour(share: number): string {
  const t = Math.max(0, Math.min(1, share));
  const mix = (pale: number, dark: number): number => Math.round(pale + (dark - pale) * t);
  return `rgb(${mix(240, 8)},${mix(244, 48)},${mix(250, 107)})`;
}

/** About six round numbers from 0 to the end. */
function tickSteps(totalStep: number): number[] {
  const rough = totalStep / 6;
  const power = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough) ?? power;
  const ticks = Array.from({ length: Math.floor(totalStep / step) + 1 }, (_, i) => i * step);
  return ticks;
}

const round = (value: number): number => Math.round(value * 100) / 100;
const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
