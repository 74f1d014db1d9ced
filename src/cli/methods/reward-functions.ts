import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { Dataset } from "../../data/index.ts";
import { reason } from "../../formats/errors.ts";
import type { RewardFunction, TextOrMessages } from "../../train/rl/rewards.ts";
import { nearest } from "../../util/nearest.ts";
import { UsageError } from "../exit.ts";

/** Rewards that need no code: they compare completions with the data's column "answer". */
const BUILT_IN: Readonly<Record<string, RewardFunction>> = {
  exact_match: function exact_match(batch) {
    const answers = answersOf(batch);
    return batch.completions.map((completion, i) => (textOf(completion).trim() === answers[i]!.trim() ? 1 : 0));
  },
  number_match: function number_match(batch) {
    const answers = answersOf(batch);
    return batch.completions.map((completion, i) => {
      const [found, wanted] = [lastNumber(textOf(completion)), lastNumber(answers[i]!)];
      return found !== null && found === wanted ? 1 : 0;
    });
  },
};

/**
 * Reward functions by name: "exact_match" and "number_match" (the last number; thousands separators left out) against the
 * column "answer", or "FILE.mjs#name", a function that a module exports ("FILE.mjs" alone: its default, or its only one).
 * Throws UsageError naming what is missing, a column of `data` included.
 */
export async function loadRewards(names: readonly string[], data: Dataset): Promise<RewardFunction[]> {
  return Promise.all(
    names.map((name) => {
      const builtIn = Object.hasOwn(BUILT_IN, name) ? BUILT_IN[name]! : null;
      if (builtIn) checkAnswers(name, data);
      return builtIn ?? fromModule(name);
    }),
  );
}

function checkAnswers(name: string, data: Dataset): void {
  for (const { row, where } of data.located()) {
    if (row.answer !== undefined && row.answer !== null) continue;
    throw new UsageError(
      `reward_funcs: ${name} compares with the column "answer"; ${where} has only ${JSON.stringify(Object.keys(row))}`,
    );
  }
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
  if (!existsSync(file)) {
    throw new UsageError(`reward_funcs: ${file}: there is no such file (looked for in ${process.cwd()})`);
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

const answersOf = ({ answer }: Readonly<Record<string, unknown>>): string[] => (answer as unknown[]).map(String);

const textOf = (completion: TextOrMessages): string =>
  typeof completion === "string"
    ? completion
    : completion.map(({ content }) => (typeof content === "string" ? content : "")).join("\n");

function lastNumber(text: string): number | null {
  const found = text.replace(/(?<=\d),(?=\d{3})/g, "").match(/-?\d+(\.\d+)?/g);
  return found ? Number(found.at(-1)) : null;
}
