import { generateTokens } from "../../generate/generate-tokens.ts";
import { DecodingSession } from "../../generate/session.ts";
import type { CausalLM } from "../../models/model.ts";

/** How completions are sampled; names and meanings are generateTokens'. */
export interface SamplingSettings {
  readonly maxNewTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  /** Ids that end a completion. */
  readonly stopTokenIds: readonly number[];
}

/** Sequences decoded side by side at most; more are made in turns. */
const MOST_SEQUENCES = 64;

/** Sequences of `sequences` that are decoded side by side, whole groups of `copies`. */
export function sequencesAtOnce(sequences: number, copies: number): number {
  return Math.min(sequences, Math.max(copies, Math.floor(MOST_SEQUENCES / copies) * copies));
}

/**
 * Completions from the model as it is at the time, sampled in one decoding session that is kept: its programs see weights
 * updated in place.
 */
export class Rollouts {
  private readonly model: CausalLM;
  private readonly settings: SamplingSettings;
  private session: DecodingSession | null = null;

  constructor(model: CausalLM, settings: SamplingSettings) {
    this.model = model;
    this.settings = settings;
  }

  /**
   * `copies` completions of each prompt, those of a prompt together. A completion's draws depend on `seed` and its place in
   * the list only. The prompt is processed once for all of its completions.
   */
  async complete(prompts: readonly (readonly number[])[], copies: number, seed: number): Promise<number[][]> {
    const { settings } = this;
    const longest = prompts.reduce((most, { length }) => Math.max(most, length), 0);
    const session = this.sessionFor(prompts.length * copies, copies, longest + settings.maxNewTokens);
    const { tokens } = await generateTokens(session, prompts, { ...settings, numReturnSequences: copies, seed });
    return tokens;
  }

  dispose(): void {
    this.session?.dispose();
    this.session = null;
  }

  /** A session with room for so many sequences of such lengths: the one there is, or a new one. */
  private sessionFor(sequences: number, copies: number, length: number): DecodingSession {
    const batch = sequencesAtOnce(sequences, copies);
    const old = this.session;
    if (old && old.batch >= batch && old.maxLength >= length) return old;
    this.dispose();
    this.session = new DecodingSession(
      this.model,
      Math.max(batch, old?.batch ?? 0),
      Math.max(length, old?.maxLength ?? 0),
    );
    return this.session;
  }
}

/** Seeds below 2^53 that never meet: those of training, of evaluation, and of samples shown. */
const SEED_SPACES = { train: 0, eval: 1, show: 2 } as const;

/**
 * The seed of a generation of `size` completions, whose own seeds are it and those after it. Equal for equal (seed,
 * generation), whatever was done before.
 */
export function generationSeed(
  seed: number,
  generation: number,
  size: number,
  space: keyof typeof SEED_SPACES = "train",
): number {
  return ((seed % 2 ** 19) * 4 + SEED_SPACES[space]) * 2 ** 32 + ((generation * size) % 2 ** 32);
}
