import type { Graph, Value } from "../graph/graph.ts";
import type { FloatDType } from "../graph/types.ts";
import { attention, type Sequences } from "../ops/attention.ts";
import { cast } from "../ops/cast.ts";
import { crossEntropy, type Loss, type LossOptions, linearCrossEntropy } from "../ops/cross-entropy.ts";
import { detach } from "../ops/detach.ts";
import { dropout } from "../ops/dropout.ts";
import { unary } from "../ops/elementwise.ts";
import { glu } from "../ops/glu.ts";
import { type LogProbOptions, linearLogProbs, logProbs, type TokenLogProbs } from "../ops/log-probs.ts";
import { matmul } from "../ops/matmul.ts";
import { rmsNorm } from "../ops/norm.ts";
import { rope } from "../ops/rope.ts";
import type { ModelAdapter } from "./adapter.ts";
import { loraEmbedding, loraLinear, withTokenLogits, withTokenRows } from "./lora.ts";
import type { CausalLM } from "./model.ts";

/** One batch as a packed stream of T tokens. */
export interface TokenInputs extends Sequences {
  /** i32[T]. */
  readonly ids: Value;
  /** i32[T], each token's position in its sequence. */
  readonly positions: Value;
}

/** How a layer's queries find their keys: over the packed tokens, or against a cache. */
export type Attend = (layer: number, q: Value, k: Value, v: Value) => Value;

export interface DecoderTraceOptions {
  /** Dropout is drawn from this u32[2] value; without it there is none. */
  readonly seed?: Value | null;
  /** Positions that may occur: the rotary table's length. */
  readonly maxPositions: number;
  /** Type of activations; the backend's own when left out. Logits and losses are always f32. */
  readonly dtype?: FloatDType;
  /** What becomes of the embeddings before the first layer (NEFTune adds noise). */
  readonly mapEmbeddings?: (embeddings: Value) => Value;
  /** Another adapter than the model's own; null: none (the reference model of preference training). */
  readonly adapter?: ModelAdapter | null;
}

/** Records a model's computation into a graph. */
export class DecoderTrace {
  readonly graph: Graph;
  readonly model: CausalLM;
  private readonly options: DecoderTraceOptions;
  private dropouts = 0;

  constructor(graph: Graph, model: CausalLM, options: DecoderTraceOptions) {
    this.graph = graph;
    this.model = model;
    this.options = options;
  }

  /** Hidden states after the final norm, [T, hidden], of packed tokens. */
  hidden(tokens: TokenInputs): Value {
    const { heads, kvHeads, headDim, windows, attentionScale, attentionSoftcap } = this.model.config;
    return this.run(tokens, (layer, q, k, v) =>
      attention(q, k, v, tokens, {
        heads,
        kvHeads,
        headDim,
        scale: attentionScale,
        window: windows[layer]!,
        softcap: attentionSoftcap,
      }),
    );
  }

  /** Hidden states with attention done by `attend`. */
  run(tokens: Pick<TokenInputs, "ids" | "positions">, attend: Attend): Value {
    const { config } = this.model;
    const { mapEmbeddings = (embeddings: Value): Value => embeddings } = this.options;
    let h = this.graph.scope("embed_tokens", () => mapEmbeddings(this.embed(tokens.ids)));
    for (let layer = 0; layer < config.layers; layer++) {
      this.graph.boundary(h);
      h = this.graph.scope(`layers.${layer}`, () => this.layer(layer, h, tokens.positions, attend));
    }
    this.graph.boundary(h);
    const last = this.graph.scope("norm", () => this.norm("model.norm", h));
    return this.adapter?.constant ? detach(last) : last;
  }

  /** Logits [rows, vocab] of hidden states. */
  logits(hidden: Value): Value {
    return this.graph.scope("lm_head", () => {
      const logits = this.headLogits(hidden);
      const { logitSoftcap } = this.model.config;
      return logitSoftcap > 0 ? unary("softcap", logits, logitSoftcap) : logits;
    });
  }

  /** Next-token loss of hidden states against labels already shifted to the tokens that predict them. */
  loss(hidden: Value, options: Omit<LossOptions, "softcap">): Loss {
    const softcap = this.model.config.logitSoftcap;
    return this.graph.scope("loss", () => {
      if (this.changesHead) {
        // A head with an update is more than one product: its logits are made whole.
        return crossEntropy(this.headLogits(hidden), { ...options, softcap });
      }
      return linearCrossEntropy(hidden, { weight: this.headWeight() }, { ...options, softcap });
    });
  }

  /** Outputs of the score head, f32 [rows, numLabels], for hidden states: rewards, values. */
  scores(hidden: Value): Value {
    return this.graph.scope("score", () =>
      matmul(cast(hidden, "f32"), this.weight("score.weight"), { transB: true, dtype: "f32" }),
    );
  }

  /** Log-probabilities of labels already shifted to the tokens that predict them, logits never whole. */
  logProbs(hidden: Value, options: Omit<LogProbOptions, "softcap">): TokenLogProbs {
    const softcap = this.model.config.logitSoftcap;
    return this.graph.scope("loss", () => {
      if (this.changesHead) {
        return logProbs(this.headLogits(hidden), { ...options, softcap });
      }
      return linearLogProbs(hidden, { weight: this.headWeight() }, { ...options, softcap });
    });
  }

  private get dtype(): FloatDType {
    return this.options.dtype ?? this.model.backend.computeDtype ?? "f32";
  }

  private get adapter() {
    const { adapter } = this.options;
    if (adapter === null) return this.model.adapter?.base ?? null;
    return adapter ?? this.model.adapter;
  }

  private get changesHead(): boolean {
    return Boolean(this.adapter?.lora("lm_head") ?? this.adapter?.tokenRows?.("lm_head"));
  }

  private headLogits(hidden: Value): Value {
    const logits = this.project("lm_head", hidden, null, "f32");
    return withTokenLogits(this.graph, logits, hidden, this.adapter?.tokenRows?.("lm_head"));
  }

  private layer(index: number, h: Value, positions: Value, attend: Attend): Value {
    const { config } = this.model;
    const path = `model.layers.${index}`;
    const x = this.norm(`${path}.input_layernorm`, h);
    const attended = this.graph.scope("self_attn", () => {
      const attn = `${path}.self_attn`;
      const q = this.rotate(
        this.headNorm(`${attn}.q_norm`, this.project(`${attn}.q_proj`, x)),
        positions,
        config.heads,
      );
      const k = this.rotate(
        this.headNorm(`${attn}.k_norm`, this.project(`${attn}.k_proj`, x)),
        positions,
        config.kvHeads,
      );
      const o = attend(index, q, k, this.project(`${attn}.v_proj`, x));
      return this.project(`${attn}.o_proj`, o, config.postNorms ? null : h);
    });
    const middle = config.postNorms ? this.norm(`${path}.post_attention_layernorm`, attended, h) : attended;
    const inner = config.postNorms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    const y = this.norm(`${path}.${inner}`, middle);
    const mlp = this.graph.scope("mlp", () => {
      const gate = this.project(`${path}.mlp.gate_proj`, y);
      const up = this.project(`${path}.mlp.up_proj`, y);
      return this.project(`${path}.mlp.down_proj`, glu(gate, up, config.activation), config.postNorms ? null : middle);
    });
    return config.postNorms ? this.norm(`${path}.post_feedforward_layernorm`, mlp, middle) : mlp;
  }

  /** acc + x·Wᵀ + bias, with the module's low-rank update. */
  private project(module: string, x: Value, acc: Value | null = null, dtype: FloatDType = this.dtype): Value {
    const weight = module === "lm_head" ? this.headWeight() : this.weight(`${module}.weight`);
    const linear = { x, weight, bias: this.optional(`${module}.bias`), acc, dtype };
    return loraLinear(this.graph, linear, this.adapter?.lora(module), (input, p) => this.drop(input, p));
  }

  private embed(ids: Value): Value {
    const table = this.weight("model.embed_tokens.weight");
    const tokens = { table, ids, scale: this.model.config.embeddingScale, dtype: this.dtype };
    const path = "model.embed_tokens";
    const vectors = loraEmbedding(this.graph, tokens, this.adapter?.loraEmbedding(path));
    return withTokenRows(this.graph, vectors, tokens, this.adapter?.tokenRows?.(path));
  }

  private norm(module: string, x: Value, residual: Value | null = null): Value {
    const { normEps: eps, normOffset: offset } = this.model.config;
    return rmsNorm(x, this.weight(`${module}.weight`), { eps, offset, residual });
  }

  private headNorm(module: string, x: Value): Value {
    return this.model.config.qkNorm ? this.norm(module, x) : x;
  }

  private rotate(x: Value, positions: Value, heads: number): Value {
    const table = this.graph.use(this.model.ropeTensor(this.options.maxPositions));
    return rope(x, table, positions, { heads, headDim: this.model.config.headDim });
  }

  private drop(x: Value, p: number): Value {
    const { seed } = this.options;
    return seed && p > 0 ? dropout(x, seed, p, this.dropouts++) : x;
  }

  private headWeight(): Value {
    const own = this.optional("lm_head.weight");
    return own ?? this.weight("model.embed_tokens.weight");
  }

  private weight(name: string): Value {
    return this.graph.use(this.adapter?.replacement(name) ?? this.model.parameter(name));
  }

  private optional(name: string): Value | null {
    const tensor = this.adapter?.replacement(name) ?? this.model.parameters.get(name);
    return tensor ? this.graph.use(tensor) : null;
  }
}
