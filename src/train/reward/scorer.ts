import type { Executable } from "../../backends/backend.ts";
import { type Batch, collate } from "../../data/collate.ts";
import { Graph, type Value } from "../../graph/graph.ts";
import { plan } from "../../graph/plan.ts";
import type { ModelAdapter } from "../../models/adapter.ts";
import { DecoderTrace } from "../../models/decoder.ts";
import type { CausalLM } from "../../models/model.ts";
import { selectRows } from "../../ops/embedding.ts";
import { sumRows } from "../../ops/reduce.ts";
import { PeftModel } from "../../peft/index.ts";
import type { ChatMessage, Tokenizer } from "../../tokenizer/index.ts";
import { OptionError } from "../../util/options.ts";
import { untrained } from "./pairs.ts";

/** A prompt with an answer: text, or conversations that follow each other. */
export interface Answered {
  readonly prompt: string | readonly ChatMessage[];
  readonly completion: string | readonly ChatMessage[];
}

export interface RewardScorerOptions {
  /** Adapter of a PeftModel to score with; the one in use when left out. */
  readonly adapterName?: string | undefined;
  /** For `score`; `scoreIds` does without. */
  readonly tokenizer?: Tokenizer | undefined;
  /** Tokens of one packed forward pass; longer answers pass alone. */
  readonly batchTokens?: number | undefined;
}

/**
 * Rewards of answers by a trained reward model: the score head at the last token, sequences packed. Programs are kept, and
 * see what training changes in the adapter. Dispose of it before the model.
 */
export class RewardScorer {
  private readonly model: CausalLM;
  private readonly adapter: ModelAdapter | null;
  private readonly tokenizer: Tokenizer | null;
  private readonly batchTokens: number;
  private readonly programs = new Map<string, Executable>();

  /** Throws OptionError when the model has no score head of one label, or no such adapter. */
  constructor(model: PeftModel | CausalLM, options: RewardScorerOptions = {}) {
    const { adapterName, tokenizer, batchTokens = 2048 } = options;
    this.model = model instanceof PeftModel ? model.model : model;
    this.tokenizer = tokenizer ?? null;
    this.batchTokens = batchTokens;
    const { numLabels } = this.model.config;
    if (numLabels !== 1) {
      const found = numLabels === null ? "no score head" : `a score head of ${numLabels} labels`;
      throw new OptionError(`RewardScorer: the model has ${found}; expected one of 1 label`);
    }
    this.adapter = this.model.adapter;
    if (adapterName !== undefined) {
      const named = model instanceof PeftModel ? model.adapters.get(adapterName) : undefined;
      if (!named) throw new OptionError(`RewardScorer: the model has no adapter named "${adapterName}"`);
      this.adapter = named;
    }
  }

  /** Rewards of answers to prompts, tokenised as for training: EOS ends plain text, conversations go through the template. */
  score(answers: readonly Answered[]): Promise<number[]> {
    const { tokenizer } = this;
    if (!tokenizer) throw new OptionError("RewardScorer: tokenizer is missing: give it as an option, or use scoreIds");
    return this.scoreIds(
      answers.map(({ prompt, completion }, i) => {
        if (typeof prompt === "string" && typeof completion === "string") {
          const eos = tokenizer.eosToken ?? "";
          return tokenizer.encode(prompt + (completion.endsWith(eos) ? completion : completion + eos));
        }
        if (typeof prompt === "string" || typeof completion === "string") {
          throw new OptionError(`RewardScorer: answer ${i}: prompt and completion must both be text, or both messages`);
        }
        return tokenizer.applyChatTemplate([...prompt, ...completion]);
      }),
    );
  }

  /** Rewards of whole sequences of ids, prompt and answer. Throws OptionError at an empty one. */
  async scoreIds(sequences: readonly ArrayLike<number>[]): Promise<number[]> {
    const empty = sequences.findIndex(({ length }) => length === 0);
    if (empty >= 0) throw new OptionError(`RewardScorer: sequence ${empty} is empty`);
    const rewards: number[] = [];
    for (let from = 0; from < sequences.length; ) {
      let tokens = 0;
      let to = from;
      while (to < sequences.length && (to === from || tokens + sequences[to]!.length <= this.batchTokens)) {
        tokens += sequences[to++]!.length;
      }
      rewards.push(...(await this.scoreBatch(sequences.slice(from, to))));
      from = to;
    }
    return rewards;
  }

  dispose(): void {
    for (const program of this.programs.values()) program.dispose();
    this.programs.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  private async scoreBatch(sequences: readonly ArrayLike<number>[]): Promise<Float32Array> {
    const batch = collate(sequences.map((ids) => [untrained(Int32Array.from(ids))]));
    let end = 0;
    const last = Int32Array.from(sequences, ({ length }) => {
      end += length;
      return end - 1;
    });
    const { inputIds: ids, positions, seqStart, seqEnd } = batch;
    const { rewards } = await this.program(batch, last.length).execute({ ids, positions, seqStart, seqEnd, last });
    return rewards!;
  }

  private program({ inputIds, positions }: Batch, count: number): Executable {
    const tokens = inputIds.length;
    const maxPositions = 2 ** Math.ceil(Math.log2(1 + positions.reduce((most, p) => Math.max(most, p), 0)));
    const key = `${tokens}:${count}:${maxPositions}`;
    const found = this.programs.get(key);
    if (found) return found;
    const { model, adapter } = this;
    const graph = new Graph();
    const vector = (name: string, length = tokens): Value => graph.input(name, "i32", [length]);
    const trace = new DecoderTrace(graph, model, { maxPositions, adapter });
    const hidden = trace.hidden({
      ids: vector("ids"),
      positions: vector("positions"),
      seqStart: vector("seqStart"),
      seqEnd: vector("seqEnd"),
    });
    graph.output("rewards", sumRows(trace.scores(selectRows(hidden, vector("last", count)))));
    const { workspaceOf, rates } = model.backend;
    const program = model.backend.compile(plan(graph, { workspaceOf, rates, name: `rewards of ${tokens} tokens` }));
    this.programs.set(key, program);
    return program;
  }
}
