// Whether kernels address what is longer than 2^31 elements: node bench/gpu/long-check.mjs --tokens 479232 [--layers 2]
// One packed batch of the same row again and again has the row's own loss and gradients, since rows do not see each other
// and both are means over tokens; then one sequence of all the tokens, whose loss can only be looked at.
import { parseArgs } from "node:util";
import { GIB, load, random32, result, seconds } from "./lib.mjs";
import { randomModel } from "./model.mjs";
import { shapeOf } from "./shapes.mjs";
import { optimizerOf, runnerOf } from "./step.mjs";

const { CudaBackend } = await load("backends/cuda/index.js");
const { getPeftModel } = await load("peft/index.js");
const { collate } = await load("data/index.js");

const { values: flags } = parseArgs({
  options: {
    model: { type: "string", default: "llama3-8b" },
    layers: { type: "string", default: "2" },
    tokens: { type: "string", default: "479232" },
    row: { type: "string", default: "4096" },
  },
});
const [tokens, length] = [Number(flags.tokens), Number(flags.row)];
const shape = { ...shapeOf(flags.model, Number(flags.layers)), max_position_embeddings: tokens };
const backend = new CudaBackend({ computeDtype: "bf16" });
const model = randomModel(backend, shape);
// Updates that are not zero, so that all gradients are of some size.
const optimizer = optimizerOf(await getPeftModel(model, { r: 16, loraAlpha: 16, initLoraWeights: false }));
const inputIds = Int32Array.from({ length }, () => random32() % model.config.vocabSize);
const rows = (count) =>
  collate(
    Array.from({ length: count }, () => [{ inputIds, labels: inputIds }]),
    count * length,
  );

/** Loss and gradients of one batch on cleared buffers. */
async function step(data, longest) {
  for (const t of optimizer.trainables) await optimizer.gradient(t).write(new Uint8Array(optimizer.gradient(t).bytes));
  const runner = runnerOf({ policy: "minimum", offload: true, within: null, length: longest }, model, optimizer);
  const from = performance.now();
  const { loss } = await runner.train(data, 1 / data.numTargets, new Uint32Array(2));
  const stepSeconds = (performance.now() - from) / 1000;
  const gradients = [];
  for (const t of optimizer.trainables) {
    const bytes = await optimizer.gradient(t).read();
    gradients.push(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
  }
  runner.dispose();
  return { loss, stepSeconds, gradients };
}

const norm = (x) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
const about = { model: flags.model, layers: Number(flags.layers), tokens };
const short = await step(rows(1), length);
const long = await step(rows(tokens / length), length);
const errors = long.gradients.map(
  (x, i) => norm(x.map((v, j) => v - short.gradients[i][j])) / norm(short.gradients[i]),
);
console.log(`${seconds()} s: loss of a row ${short.loss}, of ${tokens / length} rows ${long.loss}`);
result("long check", {
  ...about,
  what: `${tokens / length} rows of ${length} against one`,
  losses: [short.loss, long.loss],
  worstGradientError: Math.max(...errors),
  seconds: long.stepSeconds,
  peakGiB: backend.memory().peak / GIB,
});
const sequence = Int32Array.from({ length: tokens }, () => random32() % model.config.vocabSize);
const one = await step(collate([[{ inputIds: sequence, labels: sequence }]], tokens), tokens);
result("long check", {
  ...about,
  what: "one sequence",
  losses: [one.loss],
  gradientNorm: norm(one.gradients.map(norm)),
  seconds: one.stepSeconds,
  peakGiB: backend.memory().peak / GIB,
});
optimizer.dispose();
backend.dispose();
