import type { Executable, HostArray } from "../backends/backend.ts";
import type { ModelAdapter } from "../models/adapter.ts";
import type { CausalLM } from "../models/model.ts";
import { type Drawn, type Draws, drawInputs, needsSeen, randomWords, SeenTokens } from "./draws.ts";
import { commonPrefix, type NewTokens, newTokens, packPrompts, placeToken, stepInputs } from "./inputs.ts";
import { copiesOfPrompts, createLayers, disposeLayers } from "./layer-caches.ts";
import { bucket, ProgramCache } from "./program-cache.ts";
import { type CacheSpec, compileCopy, compileExtend, compilePrefill, compileSteps, type Head } from "./programs.ts";

/** Prompts are processed this many tokens at a time, or one by one where a single one is longer. */
export const PREFILL_TOKENS = 8192;
/** Tokens drawn in a row where asking the host in between would take a share of a step. */
export const STEPS_AT_ONCE = 4;
/** Compiled programs that are kept. */
const PROGRAMS = 16;

export interface PrefillOptions {
  readonly signal?: AbortSignal | undefined;
  /** Sequences that start from each prompt; prompt i goes to the sequences i·copies to i·copies + copies − 1. Default 1. */
  readonly copies?: number;
  /**
   * Where a sequence's cached tokens begin like its new prompt, keep those and process the rest only (one copy only).
   * Not for after the model's weights have changed. Default false.
   */
  readonly keepPrefix?: boolean;
}

/**
 * Keys and values of a batch of sequences, and the programs that extend them. Meant to be kept: programs stay compiled
 * from one use to the next, and see weights and adapters that are updated in place. What is cached is from the weights
 * as they were then: start again (`reset`, or `prefill`) after changing them.
 */
export class DecodingSession {
  readonly model: CausalLM;
  /** Most sequences at a time. */
  readonly batch: number;
  /** Most tokens of a sequence. */
  readonly maxLength: number;
  private readonly spec: CacheSpec;
  private readonly sequences: number[][];
  private readonly programs = new ProgramCache(PROGRAMS);
  private adapter: ModelAdapter | null;
  private seen: SeenTokens | null = null;

  /** Room for `batch` sequences of up to `maxLength` tokens, in the type of the backend's activations. */
  constructor(model: CausalLM, batch: number, maxLength: number) {
    for (const [name, value] of Object.entries({ batch, maxLength })) {
      if (!Number.isInteger(value) || value < 1) {
        throw new RangeError(`DecodingSession: ${name} must be a whole number of at least 1, found ${value}`);
      }
    }
    this.model = model;
    this.batch = batch;
    this.maxLength = maxLength;
    this.adapter = model.adapter;
    this.sequences = Array.from({ length: batch }, () => []);
    this.spec = { model, maxLength, layers: createLayers(model, batch * maxLength) };
  }

  /** Steps that `decodeAndDraw` had better make at once when more are wanted. */
  get stepsAtOnce(): number {
    return this.model.backend.groupsProducts ? STEPS_AT_ONCE : 1;
  }

  /** Tokens of a sequence whose keys and values are in the cache. */
  tokens(sequence: number): readonly number[] {
    const tokens = this.sequences[sequence];
    if (!tokens) throw new RangeError(`there is no sequence ${sequence}: the session has ${this.batch}`);
    return tokens;
  }

  /** Forget all sequences; programs and memory are kept. */
  reset(): void {
    for (const tokens of this.sequences) tokens.length = 0;
  }

  /**
   * Start sequences from prompts (none empty) and give the logits [vocab] after each prompt. A prompt that several
   * sequences start from is processed once. Sequences beyond those are forgotten.
   */
  async prefill(prompts: readonly (readonly number[])[], options: PrefillOptions = {}): Promise<Float32Array[]> {
    const { copies = 1 } = options;
    const rows = await this.start(prompts, options, null);
    return rows.filter((_, i) => i % copies === 0);
  }

  /** The same, drawing the first token of every sequence where the model runs. */
  prefillAndDraw(
    prompts: readonly (readonly number[])[],
    draws: Draws,
    options: PrefillOptions = {},
  ): Promise<Drawn[]> {
    return this.start(prompts, options, draws);
  }

  /**
   * Append tokens to the first sequences and give the logits [vocab] after the last of each. Throws RangeError when one
   * would become longer than the session has room for.
   */
  append(tokens: readonly (readonly number[])[], signal?: AbortSignal): Promise<Float32Array[]> {
    return this.extend(tokens, null, signal);
  }

  /**
   * Append one token to each of the first sequences and give the logits [vocab] after it; null leaves a sequence as it
   * is (its logits mean nothing).
   */
  async decode(tokens: readonly (number | null)[], signal?: AbortSignal): Promise<Float32Array[]> {
    const { inputs, sequences } = this.nextTokens(tokens, 1);
    const results = await this.run("decode", { ...inputs }, sequences, null, signal, (head) =>
      compileExtend(this.spec, this.batch, null, head),
    );
    tokens.forEach((token, sequence) => {
      if (token !== null) this.sequences[sequence]!.push(token);
    });
    return results;
  }

  /**
   * The same, drawing the next token of every sequence that got one, and going on from it: `steps` tokens each, by step and
   * sequence. All but the last are then in the cache.
   */
  async decodeAndDraw(
    tokens: readonly (number | null)[],
    draws: Draws,
    { steps = 1, signal }: { steps?: number; signal?: AbortSignal | undefined } = {},
  ): Promise<Drawn[][]> {
    const { inputs, sequences } = this.nextTokens(tokens, steps);
    const { settings, drawRows } = drawInputs(draws, sequences, this.batch);
    const all: Record<string, HostArray> = { ...stepInputs(inputs, steps), settings, drawRows };
    for (let step = 0; step < steps; step++) all[`draws.${step}`] = randomWords(draws, sequences, this.batch, step);
    const seen = needsSeen(draws) ? (this.seen?.tensor ?? null) : null;
    const program = this.program(`decode ${steps} ${seen !== null}`, () =>
      compileSteps(this.spec, this.batch, steps, seen),
    );
    const results = await program.execute(all, signal ? { signal } : {});
    const drawn = Array.from({ length: steps }, (_, step) =>
      sequences.map((_, i) => ({
        token: results[`tokens.${step}`]![i]!,
        logProb: results[`logProbs.${step}`]![i]!,
      })),
    );
    tokens.forEach((token, i) => {
      if (token !== null) this.sequences[i]!.push(token, ...drawn.slice(0, -1).map((row) => row[i]!.token));
    });
    return drawn;
  }

  dispose(): void {
    this.programs.clear();
    this.seen?.dispose();
    disposeLayers(this.spec.layers);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  private async start<D extends Draws | null>(
    prompts: readonly (readonly number[])[],
    { signal, copies = 1, keepPrefix = false }: PrefillOptions,
    draws: D,
  ): Promise<Result<D>[]> {
    if (prompts.length * copies > this.batch) {
      throw new RangeError(`${prompts.length} prompts in ${copies} copies: the session has room for ${this.batch}`);
    }
    for (const [i, prompt] of prompts.entries()) {
      if (prompt.length === 0 || prompt.length > this.maxLength) {
        throw new RangeError(`prompt ${i} has ${prompt.length} tokens; the session takes 1 to ${this.maxLength}`);
      }
    }
    if (draws && needsSeen(draws)) {
      this.seen ??= new SeenTokens(this.model, this.batch);
      this.seen.set(prompts, copies);
    }
    const kept = prompts.map((prompt, i) => (keepPrefix && copies === 1 ? commonPrefix(this.tokens(i), prompt) : 0));
    this.sequences.forEach((tokens, i) => {
      tokens.length = kept[i] ?? 0;
    });
    if (kept.some((length) => length > 0)) {
      const rest = prompts.map((prompt, i) => prompt.slice(kept[i]));
      return this.extend(rest, draws, signal);
    }
    const results: Result<D>[] = [];
    for (let from = 0; from < prompts.length; ) {
      let [to, total] = [from + 1, prompts[from]!.length];
      while (to < prompts.length && total + prompts[to]!.length <= PREFILL_TOKENS) total += prompts[to++]!.length;
      results.push(...(await this.prefillSome(prompts.slice(from, to), from * copies, copies, draws, signal)));
      from = to;
    }
    if (copies > 1) await this.copy(prompts, copies, signal);
    prompts.forEach((prompt, i) => {
      for (let copy = 0; copy < copies; copy++) this.sequences[i * copies + copy] = [...prompt];
    });
    return results;
  }

  /** Whole prompts into the first of their copies, the sequences from `first` on. */
  private async prefillSome<D extends Draws | null>(
    prompts: readonly (readonly number[])[],
    first: number,
    copies: number,
    draws: D,
    signal?: AbortSignal,
  ): Promise<Result<D>[]> {
    const count = bucket(prompts.reduce((sum, { length }) => sum + length, 0));
    const slots = prompts.map((_, i) => (first + i * copies) * this.maxLength);
    const { ends, ...packed } = packPrompts(prompts, slots, count);
    const sequences = ends.flatMap((_, i) => Array.from({ length: copies }, (_, copy) => first + i * copies + copy));
    const last = new Int32Array(2 ** Math.ceil(Math.log2(sequences.length))).fill(-1);
    sequences.forEach((_, i) => {
      last[i] = ends[Math.floor(i / copies)]!;
    });
    return this.run(`prefill ${count}`, { ...packed, last }, sequences, draws, signal, (head) =>
      compilePrefill(this.spec, count, last.length, head),
    );
  }

  private async extend<D extends Draws | null>(
    tokens: readonly (readonly number[])[],
    draws: D,
    signal?: AbortSignal,
  ): Promise<Result<D>[]> {
    const count = bucket(tokens.reduce((sum, { length }) => sum + length, 0));
    const inputs = { ...newTokens(count), last: new Int32Array(tokens.length).fill(-1) };
    let at = 0;
    tokens.forEach((ids, sequence) => {
      this.checkRoom(sequence, ids.length);
      ids.forEach((id, i) => {
        placeToken(inputs, at++, id, { sequence, position: this.tokens(sequence).length + i }, this.maxLength);
      });
      if (ids.length > 0) inputs.last[sequence] = at - 1;
    });
    const sequences = tokens.map((_, sequence) => sequence);
    const results = await this.run(`extend ${count}`, inputs, sequences, draws, signal, (head) =>
      compileExtend(this.spec, count, tokens.length, head),
    );
    tokens.forEach((ids, sequence) => {
      this.sequences[sequence]!.push(...ids);
    });
    return results;
  }

  /** A token for each sequence, with room for so many; sequences that get none are negative. */
  private nextTokens(tokens: readonly (number | null)[], steps: number): { inputs: NewTokens; sequences: number[] } {
    const inputs = newTokens(this.batch);
    tokens.forEach((id, sequence) => {
      if (id === null) return;
      this.checkRoom(sequence, steps);
      placeToken(inputs, sequence, id, { sequence, position: this.tokens(sequence).length }, this.maxLength);
    });
    return {
      inputs,
      sequences: Array.from({ length: this.batch }, (_, i) => ((tokens[i] ?? null) === null ? -1 : i)),
    };
  }

  /** The cache rows of each prompt's first sequence to its other ones. */
  private async copy(prompts: readonly (readonly number[])[], copies: number, signal?: AbortSignal): Promise<void> {
    for (const some of copiesOfPrompts(prompts, copies, this.maxLength)) {
      const count = bucket(some.length);
      const inputs = { from: new Int32Array(count), to: new Int32Array(count).fill(-1) };
      some.forEach(([from, to], i) => {
        [inputs.from[i], inputs.to[i]] = [from, to];
      });
      const program = this.program(`copy ${count}`, () => compileCopy(this.spec, count));
      await program.execute(inputs, signal ? { signal } : {});
    }
  }

  private checkRoom(sequence: number, more: number): void {
    if (this.tokens(sequence).length + more > this.maxLength) {
      throw new RangeError(`sequence ${sequence} has reached the session's ${this.maxLength} tokens`);
    }
  }

  /** A compiled program; all are compiled anew when the model has got another adapter. */
  private program(key: string, compile: () => Executable): Executable {
    if (this.model.adapter !== this.adapter) {
      this.programs.clear();
      this.adapter = this.model.adapter;
    }
    return this.programs.get(key, compile);
  }

  /** Run a program; `sequences` says which sequence (negative: none) each row of its head is for. */
  private async run<D extends Draws | null>(
    name: string,
    inputs: Record<string, HostArray>,
    sequences: readonly number[],
    draws: D,
    signal: AbortSignal | undefined,
    compile: (head: Head) => Executable,
  ): Promise<Result<D>[]> {
    const ends = inputs.last?.length ?? sequences.length;
    const seen = draws && needsSeen(draws) ? (this.seen?.tensor ?? null) : null;
    const head: Head = draws ? { kind: "draw", seen } : { kind: "logits" };
    const program = this.program(`${name} ${ends} ${head.kind} ${seen !== null}`, () => compile(head));
    const all = draws ? { ...inputs, ...drawInputs(draws, sequences, ends) } : inputs;
    const { logits, tokens, logProbs } = await program.execute(all, signal ? { signal } : {});
    const { vocabSize } = this.model.config;
    const result = (row: number): Float32Array | Drawn =>
      tokens
        ? { token: tokens[row]!, logProb: logProbs![row]! }
        : logits!.subarray(row * vocabSize, (row + 1) * vocabSize);
    return sequences.map((_, row) => result(row) as Result<D>);
  }
}

/** What a program's head gives for a row. */
type Result<D extends Draws | null> = D extends Draws ? Drawn : Float32Array;
