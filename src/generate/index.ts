export { type FinishReason, type Generated, type GenerateOptions, generate } from "./generate.ts";
export { type GeneratedTokens, type GenerateTokensOptions, generateTokens } from "./generate-tokens.ts";
export type { SamplingOptions } from "./sampling.ts";
export { DecodingSession, type PrefillOptions } from "./session.ts";
