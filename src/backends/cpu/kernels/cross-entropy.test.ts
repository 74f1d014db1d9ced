import assert from "node:assert/strict";
import { test } from "node:test";
import { everywhere, numericGradient } from "../../../testing/kernel-cases.ts";
import { randomFloats, relativeError, runKernel, WeightType, weightArguments } from "../../../testing/kernels.ts";

interface Options {
  softcap?: number;
  smoothing?: number;
}
type Numbers = ArrayLike<number>;
type Reference = ReturnType<typeof reference>;

/** Sums over the rows with a label in [0, V), and scale·dCE/dz, by the formula in float64. */
function reference(z: Numbers, labels: Int32Array, V: number, { softcap = 0, smoothing = 0 }: Options, scale: number) {
  const metrics = [0, 0, 0, 0] as [number, number, number, number];
  const [dz, lse] = [new Float64Array(z.length), new Float64Array(labels.length)];
  labels.forEach((label, t) => {
    if (label < 0 || label >= V) return;
    let [max, best, mean] = [Number.NEGATIVE_INFINITY, 0, 0];
    const x = new Float64Array(V);
    for (let j = 0; j < V; j++) {
      const value = z[t * V + j]!;
      x[j] = softcap ? softcap * Math.tanh(value / softcap) : value;
      if (x[j]! > max) [max, best] = [x[j]!, j];
      mean += x[j]! / V;
    }
    let rest = 0; // Σ e^(x − max) but for the largest itself, so that log1p keeps the digits of a small loss
    for (let j = 0; j < V; j++) if (j !== best) rest += Math.exp(x[j]! - max);
    const log = Math.log1p(rest);
    lse[t] = max + log;
    metrics[0] += log + (1 - smoothing) * (max - x[label]!) + (smoothing ? smoothing * (max - mean) : 0);
    metrics[1] += best === label ? 1 : 0;
    metrics[3] += 1;
    let others = 0;
    for (let j = 0; j < V; j++) {
      const p = Math.exp(x[j]! - max) / (1 + rest);
      if (p > 0) metrics[2] -= p * (x[j]! - max - log);
      if (j !== label) others += p;
      const tanh = softcap ? x[j]! / softcap : 0;
      dz[t * V + j] = scale * (p - smoothing / V) * (1 - tanh * tanh);
    }
    const tanh = softcap ? x[label]! / softcap : 0;
    dz[t * V + label] = scale * (smoothing - others - smoothing / V) * (1 - tanh * tanh);
  });
  return { loss: scale * metrics[0], metrics, dz, lse };
}

/** labels for T rows: every third one untrained (−100) or out of range. */
function someLabels(T: number, V: number): Int32Array {
  const random = randomFloats(T, 77);
  return Int32Array.from(random, (x, t) =>
    t % 3 < 2 ? Math.floor(((x + 1) / 2) * V) : [-100, V, -1][((t / 3) % 3) | 0]!,
  );
}

function near(got: Numbers, want: Numbers, what: string, limit = 1e-5): void {
  const error = relativeError(got, want);
  assert.ok(error <= limit, `${what} differs by ${error}`);
}

function checkSums(loss: Float32Array, metrics: Float32Array, want: Reference, what: string): void {
  near(loss, [want.loss], `${what}: loss`);
  near([metrics[0]!], [want.metrics[0]], `${what}: cross-entropy`);
  near([metrics[2]!], [want.metrics[2]], `${what}: entropy`);
  assert.deepEqual([metrics[1], metrics[3]], [want.metrics[1], want.metrics[3]], `${what}: correct, targets`);
}

const SCALE = 0.37;

/** cross_entropy and cross_entropy_grad, the latter both in place and elsewhere. */
function overLogits(z: Float32Array, labels: Int32Array, V: number, options: Options, limit?: number): void {
  const T = labels.length;
  const want = reference(z, labels, V, options, SCALE);
  const tail = [options.softcap ?? 0, options.smoothing ?? 0];
  everywhere(
    (memory, rt) => {
      const at = memory.put(z);
      const [labelsAt, scale] = [memory.put(labels), memory.put(Float32Array.of(SCALE))];
      const [loss, metrics, lse] = [memory.output(1), memory.output(4), memory.output(T)];
      runKernel(rt, "cross_entropy", [T, V, at, labelsAt, scale, ...tail, loss, metrics, lse]);
      const dz = memory.output(T * V);
      const head = [T, V, at, labelsAt, scale, memory.put(Float32Array.of(2)), ...tail, lse];
      runKernel(rt, "cross_entropy_grad", [...head, dz]);
      runKernel(rt, "cross_entropy_grad", [...head, at]);
      const sums = [memory.floats(loss, 1), memory.floats(metrics, 4), memory.floats(lse, T)] as const;
      return [...sums, memory.floats(dz, T * V), memory.floats(at, T * V)] as const;
    },
    ([loss, metrics, lse, dz, inPlace], isa) => {
      const what = `${isa} T ${T} V ${V} ${JSON.stringify(options)}`;
      checkSums(loss, metrics, want, what);
      near(lse, want.lse, `${what}: lse`);
      near(
        dz.map((x) => x / 2),
        want.dz,
        `${what}: dlogits`,
        limit,
      ); // prettier-ignore
      assert.deepEqual(inPlace, dz, what);
    },
  );
}

const OPTIONS: Options[] = [{}, { smoothing: 0.1 }, { softcap: 2 }, { softcap: 3, smoothing: 0.25 }];

test("loss, metrics and gradient over logits", () => {
  for (const options of OPTIONS) {
    for (const [T, V] of [
      [1, 2],
      [2, 3],
      [7, 17],
      [20, 1000],
      [5, 4111],
    ] as const) {
      const z = randomFloats(T * V, 1).map((x) => 6 * x);
      overLogits(z, someLabels(T, V), V, options);
    }
  }
});

test("sure predictions keep the digits of their small loss and gradient", () => {
  const [T, V] = [6, 300];
  const z = randomFloats(T * V, 1);
  const labels = Int32Array.from({ length: T }, (_, t) => 40 * t);
  labels.forEach((label, t) => {
    z[t * V + label] = 8 + 3 * t;
  });
  overLogits(z, labels, V, {});
  overLogits(z, labels, V, { softcap: 20 });
});

test("the first largest logit is the prediction; −inf logits and huge ones are fine", () => {
  const V = 20;
  const z = new Float32Array(4 * V).fill(Number.NEGATIVE_INFINITY);
  z.set([1, 3, 3, 2], 0);
  z.set([1, 3, 3, 2], V);
  z.set([1e30, 0], 2 * V);
  z.set([-5000, -5001], 3 * V);
  const labels = Int32Array.of(1, 2, 0, 0);
  assert.equal(reference(z, labels, V, {}, 1).metrics[1], 3);
  overLogits(z, labels, V, {}, 1e-4); // lse near −5000 rounds to 2e-4
});

test("gradients agree with finite differences", () => {
  const [T, V] = [3, 7];
  const z = randomFloats(T * V, 9).map((x) => 3 * x);
  const labels = Int32Array.of(4, -100, 0);
  for (const options of OPTIONS) {
    const numeric = numericGradient(z, (at) => reference(at, labels, V, options, SCALE).loss);
    near(reference(z, labels, V, options, SCALE).dz, numeric, "the reference's own gradient", 1e-8);
  }
});

interface HeadCase extends Options {
  T: number;
  d: number;
  V: number;
  bias?: boolean;
  type?: "f32" | "bf16";
  labels?: Int32Array;
  /** Where dW and dBias start: absent, other memory, or the output itself. */
  acc?: "none" | "separate" | "same";
}

/** The gradients of the head from those of its logits, in float64. */
function headGradients(h: Numbers, w: Numbers, dz: Numbers, T: number, d: number, V: number) {
  const [dh, dW, dBias] = [new Float64Array(T * d), new Float64Array(V * d), new Float64Array(V)];
  for (let t = 0; t < T; t++) {
    for (let v = 0; v < V; v++) {
      const g = dz[t * V + v]!;
      if (g === 0) continue;
      dBias[v] = dBias[v]! + g;
      for (let j = 0; j < d; j++) {
        dh[t * d + j] = dh[t * d + j]! + g * w[v * d + j]!;
        dW[v * d + j] = dW[v * d + j]! + g * h[t * d + j]!;
      }
    }
  }
  return { dh, dW, dBias };
}

function checkHead(c: HeadCase): void {
  const { T, d, V, softcap = 0, smoothing = 0, bias = false, type = "f32", acc = "none" } = c;
  const labels = c.labels ?? someLabels(T, V);
  const h = randomFloats(T * d, 1).map((x) => 2 * x);
  const codes = Uint16Array.from(new Uint32Array(randomFloats(V * d, 2).buffer), (bits) => bits >>> 16);
  const w = new Float32Array(Uint32Array.from(codes, (code) => code << 16).buffer); // exact in bf16
  const [biases, accW, accBias] = [randomFloats(V, 3), randomFloats(V * d, 4), randomFloats(V, 5)];
  const z = new Float64Array(T * V);
  for (let t = 0; t < T; t++) {
    if (labels[t]! < 0 || labels[t]! >= V) continue;
    for (let v = 0; v < V; v++) {
      let sum = bias ? biases[v]! : 0;
      for (let j = 0; j < d; j++) sum += h[t * d + j]! * w[v * d + j]!;
      z[t * V + v] = sum;
    }
  }
  const want = reference(z, labels, V, c, SCALE);
  const gradients = headGradients(h, w, want.dz, T, d, V);
  if (acc !== "none") {
    accW.forEach((x, i) => {
      gradients.dW[i] = gradients.dW[i]! + x;
    });
    accBias.forEach((x, i) => {
      gradients.dBias[i] = gradients.dBias[i]! + x;
    });
  }
  const trainsW = type === "f32";
  everywhere(
    (memory, rt) => {
      const data = memory.put(type === "bf16" ? codes : w);
      const weight = weightArguments({ type: WeightType[type], data });
      const scale = memory.put(Float32Array.of(SCALE));
      const [loss, metrics, dh] = [memory.output(1), memory.output(4), memory.output(T * d)];
      const dW = acc === "same" ? memory.put(accW) : memory.output(V * d);
      const dBias = acc === "same" ? memory.put(accBias) : memory.output(V);
      const from = (own: number, start: Float32Array) =>
        ({ none: () => 0, same: () => own, separate: () => memory.put(start) })[acc]();
      const head = [T, d, V, memory.put(h), ...weight, d, bias ? memory.put(biases) : 0, memory.put(labels), scale];
      runKernel(rt, "linear_cross_entropy", [
        ...[...head, softcap, smoothing, loss, metrics, dh],
        ...(trainsW ? [from(dW, accW), dW] : [0, 0]),
        ...[from(dBias, accBias), dBias],
      ]);
      const forward = [memory.output(1), memory.output(4)] as const;
      runKernel(rt, "linear_cross_entropy", [...head, softcap, smoothing, ...forward, 0, 0, 0, 0, 0]);
      const sums = [memory.floats(loss, 1), memory.floats(metrics, 4), memory.floats(dh, T * d)] as const;
      const alone = [memory.floats(forward[0], 1), memory.floats(forward[1], 4)] as const;
      return [...sums, memory.floats(dW, trainsW ? V * d : 0), memory.floats(dBias, V), ...alone] as const;
    },
    ([loss, metrics, dh, dW, dBias, lossAlone, metricsAlone], isa) => {
      const what = `${isa} ${JSON.stringify({ ...c, labels: undefined })}`;
      checkSums(loss, metrics, want, what);
      near(dh, gradients.dh, `${what}: dh`);
      if (trainsW) near(dW, gradients.dW, `${what}: dW`);
      near(dBias, gradients.dBias, `${what}: dBias`);
      assert.deepEqual([lossAlone, metricsAlone], [loss, metrics], `${what}: without gradients`);
    },
  );
}

test("head: loss, metrics and every gradient", () => {
  for (const options of OPTIONS) {
    checkHead({ T: 5, d: 16, V: 37, ...options });
    checkHead({ T: 30, d: 9, V: 1003, bias: true, acc: "separate", ...options });
    checkHead({ T: 13, d: 24, V: 129, bias: true, acc: "same", ...options });
    checkHead({ T: 8, d: 20, V: 70, type: "bf16", ...options });
  }
});

test("head: no trained rows leave dh 0 and the accumulators as they were", () => {
  const labels = Int32Array.of(-100, 50, -1);
  for (const acc of ["none", "separate", "same"] as const) checkHead({ T: 3, d: 8, V: 50, bias: true, labels, acc });
});

test("head: more trained rows than a chunk", () => {
  const labels = Int32Array.from({ length: 97 }, (_, t) => 1800 * t);
  checkHead({ T: 97, d: 1, V: 175_000, bias: true, acc: "same", labels });
});
