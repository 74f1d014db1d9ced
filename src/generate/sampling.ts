import { z } from "zod";

/** How the next token is chosen, in Hugging Face's terms. */
export const samplingSchema = z.strictObject({
  maxNewTokens: z.number().int().positive().default(128),
  /** false: the most likely token. */
  doSample: z.boolean().default(false),
  temperature: z.number().positive().default(1),
  /** Only the k most likely; 0: all. */
  topK: z.number().int().nonnegative().default(0),
  /** Only the most likely that together reach this probability; 1: all. */
  topP: z.number().gt(0).max(1).default(1),
  /** Only those at least this share as likely as the likeliest; 0: all. */
  minP: z.number().min(0).max(1).default(0),
  /** Divides positive and multiplies negative logits of tokens seen in prompt or answer; 1: off (Keskar et al. 2019). */
  repetitionPenalty: z.number().positive().default(1),
  /** Generation ends before any of these. */
  stopStrings: z.array(z.string().min(1)).default([]),
  /** Sampling is repeatable from it. */
  seed: z.number().int().nonnegative().default(0),
});
export type SamplingOptions = z.input<typeof samplingSchema>;
export type Sampling = z.output<typeof samplingSchema>;
