/** Running a test's case on every runtime, and numbers to hold the results against. */
import assert from "node:assert/strict";
import type { CpuRuntime } from "../backends/cpu/runtime.ts";
import { relativeError, runtimes, TestMemory } from "./kernels.ts";

const all = await runtimes();

/**
 * Computes something on every runtime and checks it. Results on one instruction set must be the same bits for every
 * number of threads.
 * @param compute gives the outputs, as copies
 */
export function everywhere<T extends readonly ArrayBufferView[]>(
  compute: (memory: TestMemory, runtime: CpuRuntime) => T,
  check: (outputs: T, isa: string) => void,
): void {
  const first = new Map<string, Uint8Array[]>();
  for (const [name, runtime] of all) {
    using memory = new TestMemory(runtime);
    const outputs = compute(memory, runtime);
    check(outputs, name);
    const bits = outputs.map((x) => new Uint8Array(x.buffer, x.byteOffset, x.byteLength).slice());
    const before = first.get(runtime.isa);
    if (before) assert.deepEqual(bits, before, `${name}: bits differ from those with another number of threads`);
    else first.set(runtime.isa, bits);
  }
}

/**
 * relativeError of numbers of size 1 or more: max|got − want| / max(1, max|want|). For cases of one or two elements, whose
 * result may happen to be near 0.
 */
export function errorOf(got: ArrayLike<number>, want: ArrayLike<number>): number {
  return (
    relativeError(got, want) *
    Math.min(
      1,
      Array.from(want).reduce((max, x) => Math.max(max, Math.abs(x)), 0),
    )
  );
}

/** Derivative of f: Rⁿ → R at x by central differences, in float64. */
export function numericGradient(x: ArrayLike<number>, f: (x: Float64Array) => number): Float64Array {
  const at = Float64Array.from(x);
  return Float64Array.from(at, (value, i) => {
    const h = 1e-5 * Math.max(1, Math.abs(value));
    at[i] = value + h;
    const above = f(at);
    at[i] = value - h;
    const below = f(at);
    at[i] = value;
    return (above - below) / (2 * h);
  });
}

/** Error function: Taylor series below 3, continued fraction above. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 3) {
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
}

/** |got − want| in units of the last f32 place of want. */
export function unitsInLastPlace(got: number, want: number): number {
  if (Object.is(got, want)) return 0;
  const exponent = Math.max(-126, Math.floor(Math.log2(Math.abs(want))));
  return Math.abs(got - want) / 2 ** (exponent - 23);
}
