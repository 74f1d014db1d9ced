// One case of a model's training step: planned, timed step by step, and once more kernel by kernel.
import { GIB, gib, load, median, random32, seconds } from "./lib.mjs";

const { Optimizer } = await load("optim/optimizer.js");
const { StepRunner } = await load("train/step.js");
const { collate } = await load("data/index.js");
const { keysSeen } = await load("ops/attention.js");

const ADAM = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: true };
export const optimizerOf = (peft) => new Optimizer(peft.model.backend, peft.trainable(), ADAM);

/** Rows of random tokens, of which the last `trained` share has labels. */
export function randomBatch({ batch, length, trained }, vocabSize) {
  const prompt = Math.round((1 - trained) * length);
  const rows = Array.from({ length: batch }, () => {
    const inputIds = Int32Array.from({ length }, () => random32() % vocabSize);
    return [{ inputIds, labels: inputIds.map((id, i) => (i < prompt ? -100 : id)) }];
  });
  return collate(rows, batch * length);
}

/** What is planned for a case; throws MemoryPlanError where it does not fit. */
export function runnerOf(one, model, optimizer) {
  const free = model.backend.freeMemory();
  const { total } = model.backend.device.driver.memory();
  // Of a limit, what the driver, the libraries and the tensors already have is gone; an arena makes way for this step's.
  const room = one.within === null ? Math.floor(0.94 * free) : one.within * GIB - (total - free);
  const policy =
    one.policy === "budget" || one.within !== null ? { kind: "budget", bytes: room } : { kind: one.policy };
  return new StepRunner({ model, optimizer, policy, offload: one.offload, maxPositions: one.length });
}

/** Times and memory of a case. */
export async function measure(one, { model, optimizer, steps, warmup }) {
  const { backend } = model;
  const data = randomBatch(one, model.config.vocabSize);
  const tokens = one.batch * one.length;
  const runner = runnerOf(one, model, optimizer);
  const planning = performance.now();
  const program = runner.program("train", tokens);
  const planMs = performance.now() - planning;
  const { kept, recomputed, offloaded } = program.checkpointing();
  console.log(
    `${seconds()} s: ${one.text}: planned ${program.steps.length} steps in ${planMs.toFixed(0)} ms, arena ${gib(program.arenaBytes)}; ` +
      `kept ${kept.count} (${gib(kept.bytes)}), recomputed ${recomputed.count} (${gib(recomputed.bytes)}), ` +
      `offloaded ${offloaded.count} (${gib(offloaded.bytes)})`,
  );
  backend.device.peak = backend.device.allocated;
  const times = [];
  const updates = [];
  const losses = [];
  const [first, measured] = [one.warmup ?? warmup, one.steps ?? steps];
  for (let step = 0; step < first + measured; step++) {
    const from = performance.now();
    const { loss } = await runner.train(data, 1 / data.numTargets, Uint32Array.of(step, 0));
    const between = performance.now();
    await optimizer.update(1e-4, 1);
    const end = performance.now();
    times.push(end - from);
    updates.push(end - between);
    losses.push(loss);
    console.log(`${seconds()} s: step ${step}: ${times[step].toFixed(1)} ms, loss ${loss.toFixed(4)}`);
  }
  const counted = times.slice(first);
  const { free, total } = backend.device.driver.memory();
  const medianMs = median(counted);
  return {
    runner,
    program,
    data,
    row: {
      case: one.text,
      layers: model.config.layers,
      dtype: backend.computeDtype,
      medianMs,
      slowestOverMedian: Math.max(...counted) / medianMs,
      stepsMs: counted,
      firstStepsMs: times.slice(0, first),
      updateMs: median(updates.slice(first)),
      tokensPerSecond: (tokens / medianMs) * 1000,
      losses,
      planMs,
      arenaGiB: program.arenaBytes / GIB,
      hostGiB: program.hostBytes / GIB,
      peakGiB: backend.memory().peak / GIB,
      usedGiB: (total - free) / GIB,
    },
  };
}

/** Milliseconds of every node of a step's program, run one by one. */
export async function nodeTimes(program, data, backend, optimizer) {
  const executable = backend.compile(program);
  const { inputIds: ids, positions, seqStart, seqEnd, labels } = data;
  const lossScale = Float32Array.of(1 / data.numTargets);
  const gradScale = Float32Array.of(optimizer.lossScaler?.scale ?? 1);
  const all = { ids, positions, seqStart, seqEnd, labels, lossScale, gradScale, seed: new Uint32Array(2) };
  const inputs = Object.fromEntries([...program.inputs.keys()].map((name) => [name, all[name]]));
  const timings = new Float64Array(program.steps.length);
  await executable.execute(inputs);
  await executable.execute(inputs, { timings });
  executable.dispose();
  return program.steps.map((node, i) => ({ node, ms: timings[i] / 1e6 }));
}

const KINDS = {
  matmul: "products",
  matmul_group: "products",
  matmul_chain: "products",
  lora_grad: "products",
  attention: "attention",
  attention_grad: "attention",
  linear_cross_entropy: "loss and head",
  linear_cross_entropy_grad: "loss and head",
  offload: "copies to the host",
  fetch: "copies to the host",
  wait: "copies to the host",
};
export const kindOf = ({ op }) => KINDS[op.name] ?? (op.name.startsWith("attention") ? "attention" : "elementwise");

/** Milliseconds by kind of work, what is recomputed apart. */
export function breakdown(times) {
  const sums = {};
  for (const { node, ms } of times) {
    const key = `${kindOf(node)}${node.recomputeOf ? ", again" : ""}`;
    sums[key] = (sums[key] ?? 0) + ms;
  }
  return sums;
}

/** Of what a graph counts for attention over its tokens as one sequence, the share that sequences of `length` have. */
const pairsShare = (attrs, tokens, length) => keysSeen(length, attrs) / keysSeen(tokens, attrs);

/** Lines of time, rate and traffic for each kind of node of a batch of equal sequences, the longest first. */
export function kernelLines(times, { batch, length }) {
  const table = new Map();
  for (const { node, ms } of times) {
    const { transA, transB } = node.attrs;
    const layout = `${transA ? "T" : "N"}${transB ? "T" : "N"}`;
    const shape =
      node.op.name === "matmul"
        ? ` ${node.inputs[1].dtype} ${layout} [${node.outputs[0].shape}]x${node.inputs[0].shape}`
        : "";
    const key = `${node.op.name}${shape}${node.recomputeOf ? " again" : ""}`;
    const cost = node.op.cost && !node.op.view ? node.op.cost(node) : { flops: 0, bytes: 0 };
    const row = table.get(key) ?? { key, count: 0, ms: 0, flops: 0, bytes: 0 };
    row.count++;
    row.ms += ms;
    row.flops += cost.flops * (/^attention/.test(node.op.name) ? pairsShare(node.attrs, batch * length, length) : 1);
    row.bytes += cost.bytes;
    table.set(key, row);
  }
  return [...table.values()]
    .sort((a, b) => b.ms - a.ms)
    .map(
      ({ key, count, ms, flops, bytes }) =>
        `${ms.toFixed(2).padStart(9)} ms ${String(count).padStart(5)}x ${(flops / ms / 1e9).toFixed(0).padStart(5)} TFLOP/s ` +
        `${(bytes / ms / 1e6).toFixed(0).padStart(6)} GB/s  ${key}`,
    );
}
