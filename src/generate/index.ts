export { type FinishReason, type Generated, type GenerateOptions, generate } from "./generate.ts";
export type { SamplingOptions } from "./sampling.ts";
export { DecodingSession } from "./session.ts";
