import { CausalLM } from "../models/model.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { OptionError, parseOptions } from "../util/options.ts";
import { generateTokens } from "./generate-tokens.ts";
import { type Sampling, type SamplingOptions, samplingSchema } from "./sampling.ts";
import { DecodingSession } from "./session.ts";
import { StopDetector } from "./stop.ts";

export interface GenerateOptions extends SamplingOptions {
  /** Called with each piece of text as it becomes certain, and the sequence it belongs to. */
  readonly onText?: (text: string, sequence: number) => void;
  readonly signal?: AbortSignal;
  /** Decode in this session, keeping what it has cached of each prompt's beginning; else in one made for this call. */
  readonly session?: DecodingSession;
}

/** Why a sequence ended. */
export type FinishReason = "eos" | "length" | "stop";

export interface Generated {
  /** New tokens, the end-of-sequence token included when there was one. */
  readonly tokens: number[];
  /** Their text, without special tokens and without what a stop string cut off. */
  readonly text: string;
  readonly finishReason: FinishReason;
}

/**
 * Continue each prompt. Prompts may be given left-padded with an attention mask (0 where padded): padding is dropped, so
 * a padded batch gives exactly what its prompts would give alone.
 * @param given a model, or a PeftModel
 * Throws when a prompt is empty or does not leave room in the model's positions.
 */
export async function generate(
  given: CausalLM | { readonly model: CausalLM },
  tokenizer: Tokenizer,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions & { attentionMask?: readonly (readonly number[])[] } = {},
): Promise<Generated[]> {
  const model = given instanceof CausalLM ? given : given.model;
  if (!(model instanceof CausalLM)) throw new OptionError("generate: expected a model, as fromPretrained gives it");
  if (typeof prompts === "string" || prompts.some((prompt) => typeof prompt !== "object")) {
    throw new OptionError("generate: prompts are lists of token ids: [promptIds(tokenizer, text), …]");
  }
  const { onText, signal, attentionMask, session: kept, ...rest } = options;
  const sampling = parseOptions("generate", samplingSchema, rest);
  const unpadded = prompts.map((prompt, i) => {
    const mask = attentionMask?.[i];
    if (mask && mask.length !== prompt.length) {
      throw new Error(`generate: attentionMask ${i} has ${mask.length} entries for ${prompt.length} tokens`);
    }
    return mask ? prompt.filter((_, t) => mask[t] !== 0) : prompt;
  });
  const texts = unpadded.map((_, i) => new Text(tokenizer, sampling, i, onText));
  const { doSample, stopStrings: _, ...settings } = sampling;
  const longest = unpadded.reduce((max, { length }) => Math.max(max, length), 1);
  const session = kept ?? new DecodingSession(model, Math.max(1, prompts.length), longest + sampling.maxNewTokens);
  try {
    const { tokens } = await generateTokens(session, unpadded, {
      ...settings,
      temperature: doSample ? sampling.temperature : 0,
      stopTokenIds: tokenizer.eosTokenIds,
      keepPrefix: kept !== undefined,
      signal,
      onToken: (token, i) => texts[i]!.push(token),
    });
    return texts.map((text, i) => text.result(tokens[i]!));
  } finally {
    if (!kept) session.dispose();
  }
}

/** The text of one sequence being generated. */
class Text {
  private readonly sampling: Sampling;
  private readonly eos: ReadonlySet<number>;
  private readonly stops: StopDetector;
  private readonly decoder;
  private count = 0;
  private finish: FinishReason | null = null;

  constructor(
    tokenizer: Tokenizer,
    sampling: Sampling,
    index: number,
    onText: ((text: string, sequence: number) => void) | undefined,
  ) {
    this.sampling = sampling;
    this.eos = new Set(tokenizer.eosTokenIds);
    this.decoder = tokenizer.createStreamDecoder({ skipSpecialTokens: true });
    this.stops = new StopDetector(sampling.stopStrings, (text) => onText?.(text, index));
  }

  /** Add a token; true when the sequence has ended. */
  push(token: number): boolean {
    this.count++;
    if (this.eos.has(token)) this.finish = "eos";
    else if (this.stops.push(this.decoder.push(token))) this.finish = "stop";
    else if (this.count >= this.sampling.maxNewTokens) this.finish = "length";
    if (!this.finish) return false;
    if (this.finish !== "stop" && this.stops.push(this.decoder.flush())) this.finish = "stop";
    if (this.finish !== "stop") this.stops.flush();
    return true;
  }

  result(tokens: number[]): Generated {
    return { tokens, text: this.stops.text, finishReason: this.finish ?? "length" };
  }
}
