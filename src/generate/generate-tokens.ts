import { z } from "zod";
import { parseOptions } from "../util/options.ts";
import type { Drawn, Draws } from "./draws.ts";
import type { DecodingSession } from "./session.ts";

const optionsSchema = z.strictObject({
  numReturnSequences: z.number().int().positive().default(1),
  maxNewTokens: z.number().int().positive().default(128),
  temperature: z.number().nonnegative().default(1),
  topK: z.number().int().nonnegative().default(0),
  topP: z.number().gt(0).max(1).default(1),
  minP: z.number().min(0).max(1).default(0),
  repetitionPenalty: z.number().positive().default(1),
  stopTokenIds: z.array(z.number().int().nonnegative()).default([]),
  seed: z.number().int().nonnegative().default(0),
  logProbs: z.boolean().default(false),
  keepPrefix: z.boolean().default(false),
});
type Settings = z.output<typeof optionsSchema>;

/** How token sequences are continued, in Hugging Face's terms. */
export interface GenerateTokensOptions {
  /** Completions of each prompt, which is processed once for all of them. Default 1. */
  readonly numReturnSequences?: number;
  /** Default 128. */
  readonly maxNewTokens?: number;
  /** Default 1; 0: always the most likely token. */
  readonly temperature?: number;
  /** Only the k most likely; 0, the default: all. */
  readonly topK?: number;
  /** Only the most likely that together reach this probability; 1, the default: all. */
  readonly topP?: number;
  /** Only those at least this share as likely as the likeliest; 0, the default: all. */
  readonly minP?: number;
  /** Divides positive and multiplies negative logits of tokens seen in prompt or completion; 1, the default: off. */
  readonly repetitionPenalty?: number;
  /** A completion ends with any of these. */
  readonly stopTokenIds?: readonly number[];
  /** Same seed, same completions; those of one prompt draw differently. Default 0. */
  readonly seed?: number;
  /** Also give the logarithms of the sampled tokens' probabilities. Default false. */
  readonly logProbs?: boolean;
  /** Keep what the session has cached of a prompt's beginning (one completion a prompt). Default false. */
  readonly keepPrefix?: boolean;
  readonly signal?: AbortSignal | undefined;
  /** Called with each new token and the index of its completion; true ends that completion. */
  readonly onToken?: (token: number, completion: number) => boolean | undefined;
}

/** Completions, those of prompt i at i·numReturnSequences and after. */
export interface GeneratedTokens {
  /** New tokens of each completion, a stop token included. */
  readonly tokens: number[][];
  /** Whether it ended with a stop token (or by `onToken`); false: it has maxNewTokens tokens. */
  readonly finished: boolean[];
  /**
   * For every new token the natural logarithm of its probability at the sampling temperature (at 1 when that is 0), over
   * the whole vocabulary: before the repetition penalty, top-k, top-p and min-p. What policy gradients need.
   */
  readonly logProbs?: number[][];
}

/**
 * Continue each prompt `numReturnSequences` times. More completions than the session has sequences are made in turns.
 * A completion's draws depend on the seed and its index only. Throws when a prompt is empty, has ids that the model does
 * not know, or does not fit the session with its new tokens.
 */
export async function generateTokens(
  session: DecodingSession,
  prompts: readonly (readonly number[])[],
  options: GenerateTokensOptions = {},
): Promise<GeneratedTokens> {
  const { signal, onToken, ...rest } = options;
  const settings = parseOptions("generateTokens", optionsSchema, rest);
  const copies = settings.numReturnSequences;
  checkPrompts(session, prompts, settings);
  const count = prompts.length * copies;
  const completions = Array.from({ length: count }, (_, i) => new Completion(settings, i, onToken));
  const turn = Math.floor(session.batch / copies);
  for (let at = 0; at < prompts.length; at += turn) {
    const some = prompts.slice(at, at + turn);
    const running = completions.slice(at * copies, (at + some.length) * copies);
    const draws = (step: number): Draws => ({ ...settings, step, firstIndex: at * copies });
    const options = { signal, copies, keepPrefix: settings.keepPrefix };
    let drawn = [await session.prefillAndDraw(some, draws(0), options)];
    for (let step = 1; ; ) {
      const next = running.map((completion, i) => completion.add(drawn.map((row) => row[i]!)));
      if (next.every((token) => token === null)) break;
      const steps = stepsOf(session, next, settings.maxNewTokens - step);
      drawn = await session.decodeAndDraw(next, draws(step), { steps, signal });
      step += steps;
    }
  }
  return {
    tokens: completions.map(({ tokens }) => tokens),
    finished: completions.map(({ finished }) => finished),
    ...(settings.logProbs && { logProbs: completions.map(({ logProbs }) => logProbs) }),
  };
}

/** As many steps at once as the session likes, if all sequences have as many to go. */
function stepsOf(session: DecodingSession, next: readonly (number | null)[], left: number): number {
  const room = next.map((token, i) => (token === null ? left : session.maxLength - session.tokens(i).length));
  return Math.min(left, ...room) >= session.stepsAtOnce ? session.stepsAtOnce : 1;
}

function checkPrompts(
  { model, batch, maxLength }: DecodingSession,
  prompts: readonly (readonly number[])[],
  { numReturnSequences, maxNewTokens }: Settings,
): void {
  const { vocabSize } = model.config;
  if (prompts.length === 0) throw new Error("generate: there is no prompt");
  if (numReturnSequences > batch) {
    throw new RangeError(`generate: numReturnSequences is ${numReturnSequences}; the session has ${batch} sequences`);
  }
  prompts.forEach((prompt, i) => {
    if (prompt.length === 0) {
      throw new Error(`generate: prompt ${i} is empty; give at least one token (the BOS token, say)`);
    }
    const bad = prompt.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (bad !== undefined) {
      throw new Error(`generate: prompt ${i} has token ${bad}; the model knows 0 to ${vocabSize - 1}`);
    }
    // The last new token is never fed back.
    if (prompt.length + maxNewTokens - 1 > maxLength) {
      throw new RangeError(
        `generate: prompt ${i} has ${prompt.length} tokens and up to ${maxNewTokens} follow; the session takes ` +
          `${maxLength} in all: make it longer, or lower maxNewTokens`,
      );
    }
  });
}

/** One completion being made. */
class Completion {
  readonly tokens: number[] = [];
  readonly logProbs: number[] = [];
  finished = false;
  private readonly settings: Settings;
  private readonly stops: ReadonlySet<number>;
  private readonly index: number;
  private readonly onToken: GenerateTokensOptions["onToken"];

  constructor(settings: Settings, index: number, onToken: GenerateTokensOptions["onToken"]) {
    this.settings = settings;
    this.stops = new Set(settings.stopTokenIds);
    this.index = index;
    this.onToken = onToken;
  }

  /** Take what was drawn, until the completion ends; the token to go on from, or null when it has ended. */
  add(drawn: readonly Drawn[]): number | null {
    const { maxNewTokens } = this.settings;
    for (const { token, logProb } of drawn) {
      if (this.finished || this.tokens.length >= maxNewTokens) return null;
      this.tokens.push(token);
      this.logProbs.push(logProb);
      const ended = this.onToken?.(token, this.index) ?? false;
      this.finished = ended || this.stops.has(token);
    }
    return this.finished || this.tokens.length >= maxNewTokens ? null : drawn.at(-1)!.token;
  }
}
