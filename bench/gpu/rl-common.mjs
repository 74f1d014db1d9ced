// What the benchmarks of DPO and PPO share: models, a tokenizer of numbers, and times of steps.
import { tmpdir } from "node:os";
import { join } from "node:path";
import { load } from "./lib.mjs";
import { randomModel } from "./model.mjs";
import { shapeOf } from "./shapes.mjs";

const { getPeftModel, loadModel, openDevice } = await load("index.js");

export const textOf = (ids) => ids.join(" ");

/** A tokenizer whose tokens are numbers; it adds none of its own, and none ends or pads anything. */
export const numbers = (vocabSize) => ({
  vocabSize,
  bosToken: null,
  bosTokenId: null,
  eosToken: null,
  eosTokenId: null,
  eosTokenIds: [],
  padToken: null,
  padTokenId: null,
  encode: (words) => words.split(" ").filter(Boolean).map(Number),
  decode: (ids) => textOf([...ids]),
  savePretrained: async () => [],
});

/** "llama3-1b:nf4:minimum" as an object. */
export function parseRlCase(given) {
  const [model, storage = "bf16", memory = "budget"] = given.split(":");
  if (!["bf16", "nf4"].includes(storage) || !["budget", "minimum"].includes(memory)) {
    throw new Error(`--case ${given}: expected MODEL:bf16|nf4:budget|minimum`);
  }
  return { text: given, model, storage, memory };
}

/** A backend of its own with LoRA r 16 on a model: of a folder, or with random weights on the card. */
export async function openModel(one, { device, folder, layers }) {
  const backend = await openDevice({ device, ...(device === "cpu" && { threads: 2 }) });
  const base = folder
    ? await loadModel({ path: folder, backend, loadIn4bit: one.storage === "nf4" })
    : randomModel(backend, shapeOf(one.model, layers), one.storage === "nf4" ? "nf4" : backend.computeDtype);
  // What "minimum" keeps is what gradient checkpointing keeps: the boundaries of the layers.
  const useGradientCheckpointing = one.memory === "minimum" ? true : "unsloth";
  const model = await getPeftModel(base, { r: 16, loraAlpha: 16, useGradientCheckpointing });
  return { backend, base, model };
}

/** A callback that takes the seconds of each step. */
export function stepTimer(backend) {
  let last = 0;
  const seconds = [];
  return {
    seconds,
    onTrainBegin() {
      last = performance.now();
    },
    onStepEnd() {
      backend.device?.synchronize?.();
      const now = performance.now();
      seconds.push((now - last) / 1000);
      last = now;
    },
  };
}

/** Arguments of both trainers: no files, and metrics of each step. */
export const QUIET = {
  outputDir: join(tmpdir(), "bench-rl"),
  loggingSteps: 1,
  saveStrategy: "no",
  disableTqdm: true,
  logLevel: "error",
  optim: "adamw_torch",
};
