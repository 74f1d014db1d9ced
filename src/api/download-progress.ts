import { formatBytes } from "../backends/cpu/allocations.ts";
import type { HubProgress } from "../hub/index.ts";

/** Bytes between two lines where there is no terminal. */
const STEP_BYTES = 512 * 2 ** 20;

/**
 * Shows a download: one line redrawn in a terminal; elsewhere a line when it begins, every half GiB and at its end.
 * What is in the cache already shows nothing.
 */
export function downloadLines(
  id: string,
  stream: Pick<NodeJS.WriteStream, "isTTY" | "write"> & { readonly columns?: number } = process.stderr,
): (progress: HubProgress) => void {
  let next = 0;
  let started = Number.NaN;
  let before = 0;
  return ({ done, total, files }) => {
    if (Number.isNaN(started)) [started, before] = [performance.now(), done];
    const complete = files.done === files.total;
    const seconds = (performance.now() - started) / 1000;
    const rate = seconds > 0.5 ? `, ${formatBytes((done - before) / seconds)}/s` : "";
    const text = `${id}: ${formatBytes(done)} of ${formatBytes(total)}, ${files.done} of ${files.total} files${rate}`;
    // A line that wraps could not be drawn over.
    const shown = text.slice(0, (stream.columns || Number.POSITIVE_INFINITY) - 1);
    if (stream.isTTY) stream.write(`\r\x1b[K${shown}${complete ? "\n" : ""}`);
    else if (complete || done >= next) {
      stream.write(`${text}\n`);
      next = done + STEP_BYTES;
    }
  };
}
