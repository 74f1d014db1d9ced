const WIDTH = 1100;
const HEIGHT = 320;
const LEFT = 60;
const RIGHT = 20;
const TOP = 20;
const BOTTOM = 40;

/** An SVG of the loss of each step, and a smoothed line through it (exponential mean over about ten steps). */
export function drawLossCurve(losses: readonly number[]): string {
  const top = Math.max(...losses, 0.1) * 1.05;
  const x = (step: number): number => LEFT + ((WIDTH - LEFT - RIGHT) * step) / Math.max(1, losses.length - 1);
  const y = (loss: number): number => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * loss) / top;
  const line = (values: readonly number[], style: string): string =>
    `<polyline fill="none" ${style} points="${values.map((loss, i) => `${x(i).toFixed(1)},${y(loss).toFixed(1)}`).join(" ")}"/>`;
  const ticks = [0, 1, 2, 3, 4].map((i) => {
    const [loss, step] = [(top * i) / 4, Math.round(((losses.length - 1) * i) / 4)];
    return (
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(loss).toFixed(1)}" y2="${y(loss).toFixed(1)}" stroke="#e5e7eb"/>` +
      `<text x="${LEFT - 8}" y="${(y(loss) + 4).toFixed(1)}" text-anchor="end">${loss.toFixed(2)}</text>` +
      `<text x="${x(step).toFixed(1)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${step + 1}</text>`
    );
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    ...ticks,
    line(losses, 'stroke="#93c5fd" stroke-width="1"'),
    line(smoothed(losses), 'stroke="#1d4ed8" stroke-width="2"'),
    `<text x="${WIDTH / 2}" y="${HEIGHT - 6}" text-anchor="middle">step</text>`,
    "</svg>",
  ].join("\n");
}

function smoothed(losses: readonly number[]): number[] {
  let mean = losses[0] ?? 0;
  return losses.map((loss) => {
    mean += 0.1 * (loss - mean);
    return mean;
  });
}
