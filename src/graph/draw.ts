import type { BlockRole } from "./liveness.ts";
import type { Program } from "./program.ts";

const COLOURS: Record<BlockRole, string> = {
  input: "#6b7280",
  saved: "#2563eb",
  temporary: "#60a5fa",
  gradient: "#f59e0b",
  recomputed: "#16a34a",
  output: "#111827",
  workspace: "#d946ef",
};

const WIDTH = 1100;
const HEIGHT = 560;
const LEFT = 70;
const TOP = 50;
const BOTTOM = 60;

/**
 * An SVG of one step's arena: time runs to the right, addresses upwards, each rectangle one stretch of memory from its
 * first write to its last read. The tallest column is the peak; what stands under it is where the memory went.
 */
export function drawMemory(program: Program): string {
  const steps = Math.max(1, program.steps.length);
  const x = (step: number): number => LEFT + (Math.min(Math.max(step, 0), steps) / steps) * (WIDTH - LEFT - 20);
  const y = (bytes: number): number =>
    HEIGHT - BOTTOM - (bytes / Math.max(1, program.arenaBytes)) * (HEIGHT - TOP - BOTTOM);
  const parts: string[] = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    `<text x="${LEFT}" y="22" font-size="15">${escaped(program.name)}: ${mib(program.arenaBytes)} MiB of activation memory over ${steps} kernels</text>`,
  ];
  for (const block of program.liveness.blocks) {
    if (block.pool !== "arena") continue;
    const offset = program.offsetOf(block);
    const [x0, x1] = [x(block.start), x(block.end + 1)];
    const [top, bottom] = [y(offset + block.bytes), y(offset)];
    parts.push(
      `<rect x="${n(x0)}" y="${n(top)}" width="${n(Math.max(0.4, x1 - x0))}" height="${n(Math.max(0.4, bottom - top))}" ` +
        `fill="${COLOURS[block.role]}" fill-opacity="0.85"><title>${escaped(block.name)}: ${mib(block.bytes)} MiB, ${block.role}, ` +
        `steps ${block.start}–${block.end}</title></rect>`,
    );
  }
  for (let i = 0; i <= 4; i++) {
    const bytes = (program.arenaBytes * i) / 4;
    parts.push(`<text x="${LEFT - 8}" y="${n(y(bytes) + 4)}" text-anchor="end">${mib(bytes)}</text>`);
    parts.push(`<line x1="${LEFT}" x2="${WIDTH - 20}" y1="${n(y(bytes))}" y2="${n(y(bytes))}" stroke="#e5e7eb"/>`);
  }
  const backward = program.steps.findIndex((node) => node.phase === "backward");
  if (backward > 0) {
    parts.push(
      `<line x1="${n(x(backward))}" x2="${n(x(backward))}" y1="${TOP - 10}" y2="${HEIGHT - BOTTOM}" stroke="#dc2626" stroke-dasharray="4 3"/>`,
    );
    parts.push(`<text x="${n(x(backward) + 4)}" y="${TOP - 2}" fill="#dc2626">backward</text>`);
  }
  Object.entries(COLOURS).forEach(([role, colour], i) => {
    parts.push(`<rect x="${LEFT + i * 120}" y="${HEIGHT - 28}" width="12" height="12" fill="${colour}"/>`);
    parts.push(`<text x="${LEFT + 17 + i * 120}" y="${HEIGHT - 18}">${role}</text>`);
  });
  parts.push("</svg>");
  return parts.join("\n");
}

const n = (value: number): string => value.toFixed(2);
const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);
const escaped = (text: string): string => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
