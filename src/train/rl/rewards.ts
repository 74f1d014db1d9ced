import type { ChatMessage } from "../../tokenizer/index.ts";
import { OptionError } from "../../util/options.ts";
import type { TrainerState } from "../state.ts";

/** A prompt as its row has it, and a completion the same way: text, or messages (one of the assistant's). */
export type TextOrMessages = string | readonly ChatMessage[];

/** What a reward function gets: lists with an element a completion. Other columns of the data come by their names. */
export interface RewardArguments {
  readonly prompts: readonly TextOrMessages[];
  /** Without special tokens. */
  readonly completions: readonly TextOrMessages[];
  /** Ids, an end-of-sequence token included. */
  readonly completionIds: readonly (readonly number[])[];
  /** Where training stands, for rewards that change with it. */
  readonly trainerState: TrainerState;
  /** Add a column to the printed and written completions. */
  readonly logExtra: (column: string, values: readonly unknown[]) => void;
  /** Add a number to the log; means over calls are logged. */
  readonly logMetric: (name: string, value: number) => void;
}

/**
 * Rewards of completions, one each; null where the function has nothing to say of one. A function's name is what its
 * metrics are called by.
 */
export type RewardFunction = (
  batch: RewardArguments & Readonly<Record<string, readonly unknown[]>>,
) => readonly (number | null)[] | Promise<readonly (number | null)[]>;

/** A reward function failed, or gave something that is not one reward a completion. */
export class RewardError extends Error {
  override readonly name = "RewardError";
}

/** Names of reward functions, those that have none or share one told apart by a number. Throws OptionError. */
export function rewardNames(owner: string, functions: readonly unknown[]): string[] {
  if (functions.length === 0) throw new OptionError(`${owner}: rewardFuncs is empty; give at least one function`);
  const names: string[] = [];
  functions.forEach((reward, i) => {
    if (typeof reward !== "function") {
      throw new OptionError(`${owner}: rewardFuncs[${i}] is ${typeof reward}; expected a function`);
    }
    if (reward.length > 1) {
      throw new OptionError(
        `${owner}: rewardFuncs[${i}] takes ${reward.length} arguments; it gets one object: ({ prompts, completions, … }) => […]`,
      );
    }
    const name = reward.name === "" ? "reward_func" : reward.name;
    names.push(names.includes(name) || reward.name === "" ? `${name}_${i}` : name);
  });
  return names;
}

/** What reward functions gave and logged, in the functions' order, whichever of them ended first. */
export interface Rewards {
  /** [function][completion], NaN for null. */
  readonly rewards: readonly Float64Array[];
  /** Columns of the printed and written completions; of two of one name the later function's. */
  readonly columns: ReadonlyMap<string, readonly unknown[]>;
  /** Numbers by the name of their metric. */
  readonly metrics: ReadonlyMap<string, readonly number[]>;
}

/**
 * Calls every function at once. Throws RewardError naming the function that threw, or gave too few, too many or no numbers.
 */
export async function callRewards(
  functions: readonly RewardFunction[],
  names: readonly string[],
  batch: Omit<RewardArguments, "logExtra" | "logMetric">,
): Promise<Rewards> {
  const columns: (readonly [string, readonly unknown[]])[][] = functions.map(() => []);
  const numbers: (readonly [string, number])[][] = functions.map(() => []);
  const rewards = await Promise.all(
    functions.map((reward, i) =>
      callOne(reward, names[i]!, {
        ...batch,
        logExtra: (column, values) => void columns[i]!.push([column, values]),
        logMetric: (name, value) => void numbers[i]!.push([name, value]),
      }),
    ),
  );
  const metrics = new Map<string, number[]>();
  for (const [name, value] of numbers.flat()) metrics.set(name, [...(metrics.get(name) ?? []), value]);
  return { rewards, columns: new Map(columns.flat()), metrics };
}

async function callOne(reward: RewardFunction, name: string, batch: RewardArguments): Promise<Float64Array> {
  const count = batch.completions.length;
  let values: unknown;
  try {
    values = await reward(batch as Parameters<RewardFunction>[0]);
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new RewardError(`the reward function "${name}" failed: ${message}`, { cause });
  }
  if (!Array.isArray(values)) {
    throw new RewardError(`the reward function "${name}" gave ${typeof values}; expected an array of ${count} numbers`);
  }
  if (values.length !== count) {
    throw new RewardError(
      `the reward function "${name}" gave ${values.length} rewards for ${count} completions; expected one each`,
    );
  }
  return Float64Array.from(values, (value: unknown, i) => {
    if (value === null) return Number.NaN;
    if (typeof value === "number" && Number.isFinite(value)) return value;
    const found = typeof value === "number" ? String(value) : typeof value;
    throw new RewardError(
      `the reward function "${name}" gave ${found} for completion ${i}; expected a finite number, or null for none`,
    );
  });
}
