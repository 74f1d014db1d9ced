import type { Program } from "../graph/program.ts";
import type { CausalLM } from "../models/model.ts";
import { SeenTokens } from "./draws.ts";
import { createLayers } from "./layer-caches.ts";
import { bucket } from "./program-cache.ts";
import { compilePrefill, compileSteps } from "./programs.ts";
import { PREFILL_TOKENS, STEPS_AT_ONCE } from "./session.ts";

export interface DecodingShape {
  /** Sequences side by side, and tokens that each has room for. */
  readonly batch: number;
  readonly maxLength: number;
  /** Tokens of all prompts of a batch, and of the longest. */
  readonly promptTokens: number;
  readonly longestPrompt: number;
  readonly repetitionPenalty: number;
}

/**
 * The largest programs of a decoding session that samples, prompts' and tokens', with its caches made on the model's
 * backend (role "cache"). For a sketch backend: nothing is freed before the backend is.
 */
export function planDecoding(
  model: CausalLM,
  { batch, maxLength, promptTokens, longestPrompt, repetitionPenalty }: DecodingShape,
): { prefill: Program; decode: Program } {
  const spec = { model, maxLength, layers: createLayers(model, batch * maxLength) };
  const seen = repetitionPenalty === 1 ? null : new SeenTokens(model, batch).tensor;
  const prefill = bucket(Math.min(promptTokens, Math.max(PREFILL_TOKENS, longestPrompt)));
  const steps = model.backend.groupsProducts ? STEPS_AT_ONCE : 1;
  return {
    prefill: compilePrefill(spec, prefill, 2 ** Math.ceil(Math.log2(batch)), { kind: "draw", seen }).program,
    decode: compileSteps(spec, batch, steps, seen).program,
  };
}
