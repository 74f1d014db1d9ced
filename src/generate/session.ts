import type { DeviceTensor, Executable } from "../backends/backend.ts";
import { Graph } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { DecoderTrace, type TokenInputs } from "../models/decoder.ts";
import type { CausalLM } from "../models/model.ts";
import { attention } from "../ops/attention.ts";
import { attentionCached, kvWrite } from "../ops/cache.ts";
import { selectRows } from "../ops/embedding.ts";

/** Prompts are padded to a multiple of this many tokens in all, so that few prefill programs are needed. */
const PREFILL_MULTIPLE = 32;

/**
 * Keys and values of a batch of sequences, and the two programs that extend them: prefill (whole prompts, packed, without
 * padding between them) and decode (one token a sequence).
 */
export class DecodingSession {
  readonly batch: number;
  readonly maxLength: number;
  private readonly model: CausalLM;
  private readonly keys: DeviceTensor[] = [];
  private readonly values: DeviceTensor[] = [];
  private readonly lengths: Int32Array;
  private decoder: Executable | null = null;

  /** Room for `batch` sequences of up to `maxLength` tokens. */
  constructor(model: CausalLM, batch: number, maxLength: number) {
    this.model = model;
    this.batch = batch;
    this.maxLength = maxLength;
    this.lengths = new Int32Array(batch);
    const { layers, kvHeads, headDim } = model.config;
    for (let layer = 0; layer < layers; layer++) {
      for (const [list, name] of [
        [this.keys, "keys"],
        [this.values, "values"],
      ] as const) {
        const shape = [batch * maxLength, kvHeads * headDim];
        list.push(model.backend.createTensor(`cache.${layer}.${name}`, "f32", shape, { role: "cache" }));
      }
    }
  }

  /** Process the prompts (one a sequence, none empty) and give the logits [vocab] after each. */
  async prefill(prompts: readonly (readonly number[])[], signal?: AbortSignal): Promise<Float32Array[]> {
    const total = prompts.reduce((sum, prompt) => sum + prompt.length, 0);
    const tokens = Math.ceil(total / PREFILL_MULTIPLE) * PREFILL_MULTIPLE;
    // Tokens past the end are sequences of their own that go to no slot.
    const inputs = {
      ids: new Int32Array(tokens),
      positions: new Int32Array(tokens),
      seqStart: Int32Array.from({ length: tokens }, (_, t) => t),
      seqEnd: Int32Array.from({ length: tokens }, (_, t) => t + 1),
      slots: new Int32Array(tokens).fill(-1),
      last: new Int32Array(this.batch).fill(-1),
    };
    let at = 0;
    prompts.forEach((prompt, row) => {
      const start = at;
      prompt.forEach((id, position) => {
        inputs.ids[at] = id;
        inputs.positions[at] = position;
        inputs.seqStart[at] = start;
        inputs.seqEnd[at] = start + prompt.length;
        inputs.slots[at] = row * this.maxLength + position;
        at++;
      });
      inputs.last[row] = at - 1;
      this.lengths[row] = prompt.length;
    });
    const executable = this.compilePrefill(tokens);
    try {
      return this.split(await executable.execute(inputs, signal ? { signal } : {}));
    } finally {
      executable.dispose();
    }
  }

  /** Append one token to each sequence and give the logits after it; null leaves a finished sequence as it is. */
  async decode(tokens: readonly (number | null)[], signal?: AbortSignal): Promise<Float32Array[]> {
    const positions = new Int32Array(this.batch);
    const slots = new Int32Array(this.batch).fill(-1);
    const lengths = new Int32Array(this.batch).fill(1);
    const ids = new Int32Array(this.batch);
    tokens.forEach((token, row) => {
      const length = this.lengths[row]!;
      if (token === null) return;
      if (length >= this.maxLength)
        throw new RangeError(`sequence ${row} has reached the session's ${this.maxLength} tokens`);
      ids[row] = token;
      positions[row] = length;
      slots[row] = row * this.maxLength + length;
      lengths[row] = ++this.lengths[row]!;
    });
    const rows = Int32Array.from({ length: this.batch }, (_, row) => row);
    this.decoder ??= this.compileDecode();
    return this.split(await this.decoder.execute({ ids, positions, slots, lengths, rows }, signal ? { signal } : {}));
  }

  dispose(): void {
    this.decoder?.dispose();
    for (const tensor of [...this.keys, ...this.values]) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  private split({ logits }: Record<string, Float32Array>): Float32Array[] {
    const { vocabSize } = this.model.config;
    return Array.from({ length: this.batch }, (_, row) => logits!.subarray(row * vocabSize, (row + 1) * vocabSize));
  }

  private compilePrefill(count: number): Executable {
    const graph = new Graph();
    const { heads, kvHeads, headDim, attentionScale: scale, attentionSoftcap: softcap, windows } = this.model.config;
    const tokens: TokenInputs = {
      ids: graph.input("ids", "i32", [count]),
      positions: graph.input("positions", "i32", [count]),
      seqStart: graph.input("seqStart", "i32", [count]),
      seqEnd: graph.input("seqEnd", "i32", [count]),
    };
    const slots = graph.input("slots", "i32", [count]);
    const trace = new DecoderTrace(graph, this.model, { maxPositions: this.maxLength });
    const hidden = trace.run(tokens, (layer, q, k, v) => {
      kvWrite(graph.use(this.keys[layer]!, { mutable: true }), k, slots);
      kvWrite(graph.use(this.values[layer]!, { mutable: true }), v, slots);
      return attention(q, k, v, tokens, { heads, kvHeads, headDim, scale, softcap, window: windows[layer]! });
    });
    const last = graph.input("last", "i32", [this.batch]);
    graph.output("logits", trace.logits(selectRows(hidden, last)));
    return this.compile(graph, `prefill, ${count} tokens`);
  }

  private compileDecode(): Executable {
    const graph = new Graph();
    const { heads, kvHeads, headDim, attentionScale: scale, attentionSoftcap: softcap, windows } = this.model.config;
    const input = (name: string) => graph.input(name, "i32", [this.batch]);
    const [ids, positions, slots, lengths] = [input("ids"), input("positions"), input("slots"), input("lengths")];
    const trace = new DecoderTrace(graph, this.model, { maxPositions: this.maxLength });
    const rows = graph.input("rows", "i32", [this.batch]);
    const hidden = trace.run({ ids, positions }, (layer, q, k, v) => {
      const keys = kvWrite(graph.use(this.keys[layer]!, { mutable: true }), k, slots);
      const values = kvWrite(graph.use(this.values[layer]!, { mutable: true }), v, slots);
      const options = { heads, kvHeads, headDim, scale, softcap, window: windows[layer]!, maxLength: this.maxLength };
      return attentionCached(q, { keys, values, rows, lengths }, options);
    });
    graph.output("logits", trace.logits(hidden));
    return this.compile(graph, `decode, ${this.batch} sequences`);
  }

  private compile(graph: Graph, name: string): Executable {
    const { backend } = this.model;
    return backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates, name }));
  }
}
