// Sections "dpo" and "ppo" of the suite: which cases both sides run, and on which rows.
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writePairs, writePrompts } from "./rl-rows.mjs";

const SIZES = {
  pairs: { pairs: 16, prompt: 256, least: 256, most: 768 },
  prompts: { prompts: 16, prompt: 256 },
  response: 128,
};

/** Of 80 GB, the largest model's activations do not fit as well; TRL's trainers then want gradient checkpointing. */
const isLarge = ({ hidden_size: hidden }) => hidden >= 4096;

/** Cases of this project, those of less memory first. */
const own = (models) =>
  models.flatMap((model) => ["nf4:minimum", "bf16:budget"].flatMap((how) => ["--case", `${model}:${how}`]));

const TRL_CASES = {
  dpo: (large) => (large ? ["checkpointing"] : ["checkpointing", "", "checkpointing+liger"]),
  // What a card of 80 GB has no room for is tried, and with one model less if it failed.
  ppo: (large) =>
    large ? ["models=4+checkpointing", "models=3+checkpointing+after-failure"] : ["models=3", "models=4"],
};

/**
 * @param layers flag of the number of layers, if any
 * @param shape config.json of a model
 * @param trl folders of TRL for each trainer
 * @param sizes rows, and tokens of a response
 */
export function rlSections({ models, layers, shape, node, python, trl, sizes = SIZES }) {
  const shapes = Object.fromEntries(models.map((model) => [model, shape(model)]));
  const vocab = Math.min(...models.map((model) => shapes[model].vocab_size));
  const folder = mkdtempSync(join(tmpdir(), "bench-rl-"));
  const section = async (name, script, file, more) => {
    const rows = ["--rows", file];
    await node(script, [...rows, ...own(models), ...layers, ...more]);
    const cases = models.flatMap((model) =>
      TRL_CASES[name](isLarge(shapes[model])).flatMap((options) => ["--case", `${model}:${options}`]),
    );
    const path = trl[name] ? ["--path", trl[name]] : [];
    await python("trl_gpu.py", [name, "--shapes", JSON.stringify(shapes), ...rows, ...cases, ...path, ...more]);
  };
  return {
    async dpo() {
      const file = join(folder, "pairs.jsonl");
      writePairs(file, { ...sizes.pairs, vocab });
      await section("dpo", "dpo", file, ["--batch", "4"]);
    },
    async ppo() {
      const file = join(folder, "prompts.jsonl");
      writePrompts(file, { ...sizes.prompts, vocab });
      await section("ppo", "rl-ppo", file, ["--response", String(sizes.response)]);
    },
  };
}
