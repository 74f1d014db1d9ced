import type { CausalLM } from "../models/model.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { parseOptions } from "../util/options.ts";
import { Rng } from "../util/rng.ts";
import { chooseToken, penalizeRepetition, type Sampling, type SamplingOptions, samplingSchema } from "./sampling.ts";
import { DecodingSession } from "./session.ts";
import { StopDetector } from "./stop.ts";

export interface GenerateOptions extends SamplingOptions {
  /** Called with each piece of text as it becomes certain, and the sequence it belongs to. */
  readonly onText?: (text: string, sequence: number) => void;
  readonly signal?: AbortSignal;
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
 * Throws when a prompt is empty or does not leave room in the model's positions.
 */
export async function generate(
  model: CausalLM,
  tokenizer: Tokenizer,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions & { attentionMask?: readonly (readonly number[])[] } = {},
): Promise<Generated[]> {
  const { onText, signal, attentionMask, ...rest } = options;
  const sampling = parseOptions("generate", samplingSchema, rest);
  const unpadded = prompts.map((prompt, i) => {
    const mask = attentionMask?.[i];
    if (mask && mask.length !== prompt.length) {
      throw new Error(`generate: attentionMask ${i} has ${mask.length} entries for ${prompt.length} tokens`);
    }
    return mask ? prompt.filter((_, t) => mask[t] !== 0) : prompt;
  });
  checkPrompts(unpadded, model.config.vocabSize);
  const longest = Math.max(...unpadded.map((prompt) => prompt.length));
  using session = new DecodingSession(model, prompts.length, longest + sampling.maxNewTokens);
  const sequences = unpadded.map((prompt, i) => new Sequence(tokenizer, prompt, sampling, i, onText));
  let logits = await session.prefill(unpadded, signal);
  for (;;) {
    const next = sequences.map((sequence, i) => sequence.advance(logits[i]!));
    if (next.every((token) => token === null)) break;
    logits = await session.decode(next, signal);
  }
  return sequences.map((sequence) => sequence.result());
}

function checkPrompts(prompts: readonly (readonly number[])[], vocabSize: number): void {
  if (prompts.length === 0) throw new Error("generate: there is no prompt");
  prompts.forEach((prompt, i) => {
    if (prompt.length === 0)
      throw new Error(`generate: prompt ${i} is empty; give at least one token (the BOS token, say)`);
    const bad = prompt.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (bad !== undefined)
      throw new Error(`generate: prompt ${i} has token ${bad}; the model knows 0 to ${vocabSize - 1}`);
  });
}

/** One sequence being generated. */
class Sequence {
  private readonly tokens: number[] = [];
  private readonly seen: number[];
  private readonly sampling: Sampling;
  private readonly random: Rng;
  private readonly eos: ReadonlySet<number>;
  private readonly stops: StopDetector;
  private readonly decoder;
  private finish: FinishReason | null = null;

  constructor(
    tokenizer: Tokenizer,
    prompt: readonly number[],
    sampling: Sampling,
    index: number,
    onText: ((text: string, sequence: number) => void) | undefined,
  ) {
    this.seen = [...prompt];
    this.sampling = sampling;
    // A sequence's draws do not depend on what else is in the batch.
    this.random = new Rng(sampling.seed + index);
    this.eos = new Set(tokenizer.eosTokenIds);
    this.decoder = tokenizer.createStreamDecoder({ skipSpecialTokens: true });
    this.stops = new StopDetector(sampling.stopStrings, (text) => onText?.(text, index));
  }

  /** Choose the next token; null when the sequence has ended and needs no more logits. */
  advance(logits: Float32Array): number | null {
    if (this.finish) return null;
    const scores = this.sampling.repetitionPenalty === 1 ? logits : logits.slice();
    penalizeRepetition(scores, this.seen, this.sampling.repetitionPenalty);
    const token = chooseToken(scores, this.sampling, () => this.random.float());
    this.tokens.push(token);
    this.seen.push(token);
    if (this.eos.has(token)) this.finish = "eos";
    else if (this.stops.push(this.decoder.push(token))) this.finish = "stop";
    else if (this.tokens.length >= this.sampling.maxNewTokens) this.finish = "length";
    if (!this.finish) return token;
    if (this.finish !== "stop" && this.stops.push(this.decoder.flush())) this.finish = "stop";
    if (this.finish !== "stop") this.stops.flush();
    return null;
  }

  result(): Generated {
    return { tokens: this.tokens, text: this.stops.text, finishReason: this.finish ?? "length" };
  }
}
