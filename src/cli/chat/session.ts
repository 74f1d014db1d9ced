import { DecodingSession, generate, type SamplingOptions } from "../../generate/index.ts";
import type { CausalLM } from "../../models/model.ts";
import type { ChatMessage } from "../../tokenizer/chat-template.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { UsageError } from "../exit.ts";

export interface ChatSessionOptions {
  readonly lm: CausalLM;
  readonly tokenizer: Tokenizer;
  readonly sampling: SamplingOptions;
  readonly system?: string | undefined;
}

export interface ChatReply {
  readonly text: string;
  /** Stopped by the signal: what there was of it is in the history. */
  readonly stopped: boolean;
  /** Earlier messages that no longer fit the model's positions and were left out. */
  readonly forgotten: number;
}

const MAX_NEW_TOKENS = 512;
/** Tokens that a conversation first has room for. */
const FIRST_ROOM = 2048;

/** A conversation with a model. */
export class ChatSession {
  readonly history: ChatMessage[] = [];
  system: string | undefined;
  private readonly options: ChatSessionOptions;
  /** Holds the keys and values of the conversation so far: a turn processes only what it adds. */
  private decoding: DecodingSession | null = null;

  /** Throws UsageError for a model without a chat template. */
  constructor(options: ChatSessionOptions) {
    this.options = options;
    this.system = options.system;
    if (options.tokenizer.chatTemplate === null) {
      throw new UsageError("this model has no chat template: it continues text, with `unsloth generate --raw`");
    }
  }

  /** The model's answer to a message, streamed through `onText`. Both become part of the history. */
  async reply(text: string, onText: (text: string) => void, signal?: AbortSignal): Promise<ChatReply> {
    const { lm, tokenizer, sampling } = this.options;
    const maxNewTokens = sampling.maxNewTokens ?? MAX_NEW_TOKENS;
    this.history.push({ role: "user", content: text });
    const { prompt, forgotten } = this.prompt(maxNewTokens);
    const room = lm.config.maxPositions - prompt.length;
    if (room < 1) {
      this.history.pop();
      throw new UsageError(`the message has ${prompt.length} tokens; the model takes ${lm.config.maxPositions}`);
    }
    const newTokens = Math.min(maxNewTokens, room);
    let answer = "";
    let stopped = false;
    try {
      await generate(lm, tokenizer, [prompt], {
        ...sampling,
        maxNewTokens: newTokens,
        session: this.roomFor(prompt.length + newTokens),
        ...(signal && { signal }),
        onText: (piece) => {
          answer += piece;
          onText(piece);
        },
      });
    } catch (error) {
      if (!signal?.aborted) {
        this.history.pop();
        throw error;
      }
      stopped = true;
    }
    this.history.push({ role: "assistant", content: answer });
    return { text: answer, stopped, forgotten };
  }

  reset(): void {
    this.history.length = 0;
  }

  dispose(): void {
    this.decoding?.dispose();
    this.decoding = null;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** The session, made anew with at least twice the room when it is too short. */
  private roomFor(tokens: number): DecodingSession {
    const { lm } = this.options;
    if (!this.decoding || this.decoding.maxLength < tokens) {
      const doubled = 2 * (this.decoding?.maxLength ?? FIRST_ROOM / 2);
      this.dispose();
      this.decoding = new DecodingSession(lm, 1, Math.min(lm.config.maxPositions, Math.max(tokens, doubled)));
    }
    return this.decoding;
  }

  /** The history's tokens; the oldest exchanges are left out where they leave no room for an answer. */
  private prompt(maxNewTokens: number): { prompt: number[]; forgotten: number } {
    const { lm, tokenizer } = this.options;
    const system: ChatMessage[] = this.system === undefined ? [] : [{ role: "system", content: this.system }];
    const { maxPositions } = lm.config;
    // A long answer may be cut short before the conversation is forgotten.
    const reserve = Math.min(maxNewTokens, Math.floor(maxPositions / 4));
    let forgotten = 0;
    for (;;) {
      const messages = [...system, ...this.history.slice(forgotten)];
      const prompt = tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
      const fits = prompt.length + reserve <= maxPositions;
      if (fits || this.history.length - forgotten <= 1) return { prompt, forgotten };
      forgotten += 2;
    }
  }
}
