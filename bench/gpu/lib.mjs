// What the scripts of this folder share: the compiled package, results as lines, times of commands.
import { writeFileSync } from "node:fs";
import { join } from "node:path";

const dist = new URL("../../dist/", import.meta.url);
export const load = (path) => import(new URL(path, dist).href);

export const GIB = 2 ** 30;
export const gib = (bytes) => `${(bytes / GIB).toFixed(2)} GiB`;

const started = performance.now();
/** Seconds since this script began. */
export const seconds = () => ((performance.now() - started) / 1000).toFixed(1);

/** Before a line of JSON that the suite collects. */
export const MARK = "RESULT ";
export const result = (section, row) => console.log(MARK + JSON.stringify({ section, ...row }));

/** A file beside the suite's results. */
export function writeOut(name, text) {
  if (process.env.OUT) writeFileSync(join(process.env.OUT, name), text);
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

let state = 12345;
/** xorshift32: the same numbers in every run. */
export function random32() {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return state >>> 0;
}

/** Milliseconds of a command on the card, the mean of `n` between two events. */
export function timed(device, command, n = 20) {
  for (let i = 0; i < 2; i++) command();
  const { driver, stream } = device;
  const [from, to] = [driver.create("cuEventCreate", 0), driver.create("cuEventCreate", 0)];
  driver.call("cuEventRecord", from, stream);
  for (let i = 0; i < n; i++) command();
  driver.call("cuEventRecord", to, stream);
  device.synchronize();
  const elapsed = new Float32Array(1);
  driver.call("cuEventElapsedTime", elapsed, from, to);
  for (const event of [from, to]) driver.call("cuEventDestroy", event);
  return elapsed[0] / n;
}

/** Seconds of a copy within the card's memory, as bytes moved (read and written) a second. */
export function copyRate(device) {
  const [a, b] = [device.alloc(GIB), device.alloc(GIB)];
  device.clear(a, GIB, 1);
  const ms = timed(device, () => device.copy(b, a, GIB));
  for (const address of [a, b]) device.free(address);
  return ((2 * GIB) / ms) * 1000;
}
