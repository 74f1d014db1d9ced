import type { DeviceTensor, Executable } from "../backends/backend.ts";
import type { FloatDType } from "../graph/types.ts";
import type { ModelAdapter } from "../models/adapter.ts";
import type { CausalLM } from "../models/model.ts";
import { bucket, ProgramCache } from "./program-cache.ts";
import { type CacheSpec, compileCopy, compileExtend, compilePrefill, type LayerCache } from "./programs.ts";

/** Prompts are processed this many tokens at a time, or one by one where a single one is longer. */
const PREFILL_TOKENS = 8192;
/** Cache rows that are copied at a time. */
const COPY_ROWS = 4096;
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
  async prefill(
    prompts: readonly (readonly number[])[],
    { signal, copies = 1, keepPrefix = false }: PrefillOptions = {},
  ): Promise<Float32Array[]> {
    if (prompts.length * copies > this.batch) {
      throw new RangeError(`${prompts.length} prompts in ${copies} copies: the session has room for ${this.batch}`);
    }
    for (const [i, prompt] of prompts.entries()) {
      if (prompt.length === 0 || prompt.length > this.maxLength) {
        throw new RangeError(`prompt ${i} has ${prompt.length} tokens; the session takes 1 to ${this.maxLength}`);
      }
    }
    const kept = prompts.map((prompt, i) => (keepPrefix && copies === 1 ? commonPrefix(this.tokens(i), prompt) : 0));
    this.sequences.forEach((tokens, i) => {
      tokens.length = kept[i] ?? 0;
    });
    if (kept.some((length) => length > 0)) {
      return this.append(
        prompts.map((prompt, i) => prompt.slice(kept[i])),
        signal,
      );
    }
    const logits: Float32Array[] = [];
    for (let from = 0; from < prompts.length; ) {
      let [to, total] = [from + 1, prompts[from]!.length];
      while (to < prompts.length && total + prompts[to]!.length <= PREFILL_TOKENS) total += prompts[to++]!.length;
      logits.push(...(await this.prefillSome(prompts.slice(from, to), from, copies, signal)));
      from = to;
    }
    if (copies > 1) await this.copy(prompts, copies, signal);
    prompts.forEach((prompt, i) => {
      for (let copy = 0; copy < copies; copy++) this.sequences[i * copies + copy] = [...prompt];
    });
    return logits;
  }

  /**
   * Append tokens to the first sequences and give the logits [vocab] after the last of each. Throws RangeError when one
   * would become longer than the session has room for.
   */
  async append(tokens: readonly (readonly number[])[], signal?: AbortSignal): Promise<Float32Array[]> {
    const total = tokens.reduce((sum, { length }) => sum + length, 0);
    const count = bucket(total);
    const inputs = { ...newTokens(count), last: new Int32Array(tokens.length).fill(-1) };
    let at = 0;
    tokens.forEach((ids, sequence) => {
      this.checkRoom(sequence, ids.length);
      ids.forEach((id, i) => {
        this.place(inputs, at++, sequence, id, this.tokens(sequence).length + i);
      });
      inputs.last[sequence] = at - 1;
    });
    const program = this.program(`extend ${count} ${tokens.length}`, () =>
      compileExtend(this.spec, count, tokens.length),
    );
    const logits = await this.run(program, inputs, signal);
    tokens.forEach((ids, sequence) => {
      this.sequences[sequence]!.push(...ids);
    });
    return logits;
  }

  /**
   * Append one token to each of the first sequences and give the logits [vocab] after it; null leaves a sequence as it
   * is (its logits mean nothing).
   */
  async decode(tokens: readonly (number | null)[], signal?: AbortSignal): Promise<Float32Array[]> {
    const inputs = newTokens(this.batch);
    tokens.forEach((token, sequence) => {
      if (token === null) return;
      this.checkRoom(sequence, 1);
      this.place(inputs, sequence, sequence, token, this.tokens(sequence).length);
    });
    const program = this.program("decode", () => compileExtend(this.spec, this.batch, null));
    const logits = await this.run(program, inputs, signal);
    tokens.forEach((token, sequence) => {
      if (token !== null) this.sequences[sequence]!.push(token);
    });
    return logits;
  }

  dispose(): void {
    this.programs.clear();
    for (const { keys, values } of this.spec.layers) for (const tensor of [keys, values]) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Whole prompts into the first of their copies. */
  private async prefillSome(
    prompts: readonly (readonly number[])[],
    first: number,
    copies: number,
    signal?: AbortSignal,
  ): Promise<Float32Array[]> {
    const count = bucket(prompts.reduce((sum, { length }) => sum + length, 0));
    // Tokens past the end are sequences of their own that go to no slot.
    const inputs = {
      ids: new Int32Array(count),
      positions: new Int32Array(count),
      seqStart: Int32Array.from({ length: count }, (_, t) => t),
      seqEnd: Int32Array.from({ length: count }, (_, t) => t + 1),
      slots: new Int32Array(count).fill(-1),
      last: new Int32Array(2 ** Math.ceil(Math.log2(prompts.length))).fill(-1),
    };
    let at = 0;
    prompts.forEach((prompt, i) => {
      const start = at;
      const slot = (first + i) * copies * this.maxLength;
      prompt.forEach((id, position) => {
        inputs.ids[at] = id;
        inputs.positions[at] = position;
        inputs.seqStart[at] = start;
        inputs.seqEnd[at] = start + prompt.length;
        inputs.slots[at] = slot + position;
        at++;
      });
      inputs.last[i] = at - 1;
    });
    const rows = inputs.last.length;
    const program = this.program(`prefill ${count} ${rows}`, () => compilePrefill(this.spec, count, rows));
    return (await this.run(program, inputs, signal)).slice(0, prompts.length);
  }

  /** The cache rows of each prompt's first sequence to its other ones. */
  private async copy(prompts: readonly (readonly number[])[], copies: number, signal?: AbortSignal): Promise<void> {
    const pairs: [number, number][] = [];
    prompts.forEach(({ length }, i) => {
      const source = i * copies * this.maxLength;
      for (let copy = 1; copy < copies; copy++) {
        for (let t = 0; t < length; t++) pairs.push([source + t, source + copy * this.maxLength + t]);
      }
    });
    for (let at = 0; at < pairs.length; at += COPY_ROWS) {
      const some = pairs.slice(at, at + COPY_ROWS);
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

  private place(inputs: NewTokens, at: number, sequence: number, id: number, position: number): void {
    inputs.ids[at] = id;
    inputs.positions[at] = position;
    inputs.rows[at] = sequence;
    inputs.slots[at] = sequence * this.maxLength + position;
    inputs.lengths[at] = position + 1;
  }

  /** A compiled program; all are compiled anew when the model has got another adapter. */
  private program(key: string, compile: () => Executable): Executable {
    if (this.model.adapter !== this.adapter) {
      this.programs.clear();
      this.adapter = this.model.adapter;
    }
    return this.programs.get(key, compile);
  }

  private async run(program: Executable, inputs: object, signal?: AbortSignal): Promise<Float32Array[]> {
    const { logits } = await program.execute(inputs as Record<string, Int32Array>, signal ? { signal } : {});
    const { vocabSize } = this.model.config;
    const rows = logits!.length / vocabSize;
    return Array.from({ length: rows }, (_, row) => logits!.subarray(row * vocabSize, (row + 1) * vocabSize));
  }
}

/** Inputs of `compileExtend`. */
interface NewTokens {
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  readonly slots: Int32Array;
  readonly rows: Int32Array;
  readonly lengths: Int32Array;
}

/** Tokens that go to no slot and see nothing. */
function newTokens(count: number): NewTokens {
  return {
    ids: new Int32Array(count),
    positions: new Int32Array(count),
    slots: new Int32Array(count).fill(-1),
    rows: new Int32Array(count).fill(-1),
    lengths: new Int32Array(count),
  };
}

function createLayers({ backend, config }: CausalLM, capacity: number): LayerCache[] {
  const dtype: FloatDType = backend.computeDtype ?? "f32";
  const shape = [capacity, config.kvHeads * config.headDim];
  const create = (layer: number, name: string): DeviceTensor =>
    backend.createTensor(`cache.${layer}.${name}`, dtype, shape, { role: "cache" });
  return Array.from({ length: config.layers }, (_, layer) => ({
    keys: create(layer, "keys"),
    values: create(layer, "values"),
  }));
}

/** Tokens that both begin with; one less than the prompt has, since its last has to be processed for its logits. */
function commonPrefix(cached: readonly number[], prompt: readonly number[]): number {
  const most = Math.min(cached.length, prompt.length - 1);
  let length = 0;
  while (length < most && cached[length] === prompt[length]) length++;
  return length;
}
