import type { TrainerState } from "../state.ts";
import type { TextOrMessages } from "./rewards.ts";

/**
 * Makes completions oneself, in place of sampling them from the model (tools, environments, recorded ones).
 * @returns ids of each completion, an end-of-sequence token included: `numGenerations` a prompt, together
 */
export type RolloutFunction = (request: {
  readonly prompts: readonly TextOrMessages[];
  readonly promptIds: readonly (readonly number[])[];
  readonly numGenerations: number;
  readonly seed: number;
  readonly trainerState: TrainerState;
}) => Promise<readonly (readonly number[])[]> | readonly (readonly number[])[];

export interface CompletionRules {
  readonly vocabSize: number;
  /** Least tokens of a completion. */
  readonly shortest: 0 | 1;
}

/** The same function, but what it gives is checked. */
export function checkedRollouts(make: RolloutFunction, rules: CompletionRules): RolloutFunction {
  return async (request) => {
    const made: unknown = await make(request);
    const count = request.promptIds.length * request.numGenerations;
    if (!Array.isArray(made) || made.length !== count) {
      const found = Array.isArray(made) ? `${made.length} completions` : typeof made;
      throw new Error(`rolloutFunc gave ${found}; expected ${count} lists of token ids`);
    }
    for (const [i, ids] of made.entries()) checkCompletion(ids, i, rules);
    return made;
  };
}

function checkCompletion(ids: unknown, index: number, { vocabSize, shortest }: CompletionRules): void {
  const wrongly = (what: string): Error => new Error(`rolloutFunc: completion ${index} ${what}`);
  if (!Array.isArray(ids)) throw wrongly(`is a ${typeof ids}; expected a list of token ids`);
  if (ids.length < shortest) throw wrongly("is empty; expected at least one token");
  const wrong = ids.findIndex((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize));
  if (wrong >= 0) throw wrongly(`has the token ${ids[wrong]}; expected whole numbers from 0 to ${vocabSize - 1}`);
}
