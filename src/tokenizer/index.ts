export { type ChatMessage, ChatTemplate, ChatTemplateError } from "./chat-template.ts";
export type { StreamDecoder } from "./detokenizer.ts";
export { tokenizerFromGguf } from "./gguf-tokenizer.ts";
export type { EncodingWithOffsets } from "./pipeline.ts";
export {
  type ChatEncoding,
  type ChatTemplateOptions,
  type DecodeOptions,
  type EncodeOptions,
  Tokenizer,
} from "./tokenizer.ts";
