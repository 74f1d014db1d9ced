export { type ChatMessage, ChatTemplate, ChatTemplateError } from "./chat-template.ts";
export { type CustomTemplate, type GetChatTemplateOptions, getChatTemplate } from "./chat-template-by-name.ts";
export type { MessageMapping } from "./chat-template-mapping.ts";
export type { StreamDecoder } from "./detokenizer.ts";
export { tokenizerFromGguf } from "./gguf-tokenizer.ts";
export type { EncodingWithOffsets } from "./pipeline.ts";
export { CHAT_TEMPLATES, type ChatTemplateName } from "./templates/index.ts";
export {
  type ChatEncoding,
  type ChatTemplateOptions,
  type DecodeOptions,
  type EncodeOptions,
  Tokenizer,
} from "./tokenizer.ts";
