import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { reason } from "../../formats/errors.ts";
import type { RewardFunction, TextOrMessages } from "../../train/rl/rewards.ts";
import { nearest } from "../../util/nearest.ts";
import { UsageError } from "../exit.ts";

/** Rewards that need no code: they compare completions with the data's column "answer". */
const BUILT_IN: Readonly<Record<string, RewardFunction>> = {
  exact_match: function exact_match(batch) {
    const answers = answersOf("exact_match", batch);
    return batch.completions.map((completion, i) => (textOf(completion).trim() === answers[i]!.trim() ? 1 : 0));
  },
  number_match: function number_match(batch) {
    const answers = answersOf("number_match", batch);
    return batch.completions.map((completion, i) => {
      const [found, wanted] = [lastNumber(textOf(completion)), lastNumber(answers[i]!)];
      return found !== null && found === wanted ? 1 : 0;
    });
  },
};

/**
 * Reward functions by name: "exact_match" and "number_match" (the last number; thousands separators left out) against the
 * column "answer", or "FILE.mjs#name", a function that a module exports ("FILE.mjs" alone: its default, or its only one).
 * Throws UsageError naming what is missing.
 */
export async function loadRewards(names: readonly string[]): Promise<RewardFunction[]> {
  return Promise.all(names.map((name) => BUILT_IN[name] ?? fromModule(name)));
}

async function fromModule(name: string): Promise<RewardFunction> {
  const at = name.lastIndexOf("#");
  const [file, wanted] = at < 0 ? [name, null] : [name.slice(0, at), name.slice(at + 1)];
  if (!/\.(m|c)?(js|ts)$/.test(file)) {
    const close = nearest(name, Object.keys(BUILT_IN));
    const hint = close ? `; did you mean "${close}"?` : "";
    throw new UsageError(
      `reward_funcs: unknown reward "${name}"${hint} (there are ${Object.keys(BUILT_IN).join(", ")}, or FILE.mjs#function)`,
    );
  }
  let module: Readonly<Record<string, unknown>>;
  try {
    module = (await import(pathToFileURL(resolve(file)).href)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    throw new UsageError(`reward_funcs: ${file} cannot be loaded: ${reason(error)}`);
  }
  const functions = Object.entries(module).filter(([, value]) => typeof value === "function");
  const only = functions.length === 1 ? functions[0]![1] : undefined;
  const found = wanted === null ? (module.default ?? only) : module[wanted];
  if (typeof found === "function") return found as RewardFunction;
  const there = functions.map(([key]) => key).join(", ") || "none";
  throw new UsageError(
    `reward_funcs: ${file} exports ${wanted === null ? "no default function" : `no function "${wanted}"`}; functions it exports: ${there}`,
  );
}

function answersOf(name: string, batch: Readonly<Record<string, unknown>>): string[] {
  const { answer } = batch;
  if (Array.isArray(answer)) return answer.map(String);
  throw new UsageError(`reward_funcs: ${name} compares with the column "answer", which the data has not`);
}

const textOf = (completion: TextOrMessages): string =>
  typeof completion === "string"
    ? completion
    : completion.map(({ content }) => (typeof content === "string" ? content : "")).join("\n");

function lastNumber(text: string): number | null {
  const found = text.replace(/(?<=\d),(?=\d{3})/g, "").match(/-?\d+(\.\d+)?/g);
  return found ? Number(found.at(-1)) : null;
}
