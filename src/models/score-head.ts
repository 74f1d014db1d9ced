import { numel } from "../graph/types.ts";
import { OptionError } from "../util/options.ts";
import { Rng } from "../util/rng.ts";
import type { CausalLM } from "./model.ts";

export const SCORE_WEIGHT = "score.weight";

export interface ScoreHeadOptions {
  /** Numbers a token: 1 for rewards and values. */
  readonly numLabels?: number | undefined;
  /** Seed of the initial weights: normal, with config.json's initializer_range (transformers' for classifiers). */
  readonly seed?: number | undefined;
}

/**
 * Gives a model a linear head [numLabels, hidden] on its last hidden states, named "score" as in transformers'
 * …ForSequenceClassification. It belongs to the base model; adapters with modulesToSave ["score"] (or task type SEQ_CLS)
 * carry a trained copy of their own, so policy, value and reward models can share one base. A head that is there stays.
 * Throws OptionError when that one has another number of labels.
 */
export function addScoreHead(model: CausalLM, { numLabels = 1, seed = 3407 }: ScoreHeadOptions = {}): void {
  const { config, hfConfig, backend } = model;
  if (config.numLabels !== null) {
    if (config.numLabels === numLabels) return;
    throw new OptionError(
      `the model has a score head of ${config.numLabels} labels; asked for was one of ${numLabels}`,
    );
  }
  if (!Number.isInteger(numLabels) || numLabels < 1)
    throw new OptionError(`addScoreHead: numLabels: expected at least 1, found ${numLabels}`);
  const shape = [numLabels, config.hiddenSize];
  const deviation = typeof hfConfig.initializer_range === "number" ? hfConfig.initializer_range : 0.02;
  const rng = new Rng(seed);
  const data = Float32Array.from({ length: numel(shape) }, () => deviation * rng.normal());
  const tensor = backend.createTensor(SCORE_WEIGHT, "f32", shape, { role: "weight" });
  tensor.write(new Uint8Array(data.buffer));
  model.parameters.set(SCORE_WEIGHT, tensor);
  model.config = { ...config, numLabels };
}

/**
 * As `addScoreHead`, for good: a language head of its own is freed, and config.json becomes that of transformers'
 * …ForSequenceClassification, which is what is saved then.
 */
export function asSequenceClassifier(model: CausalLM, options: ScoreHeadOptions = {}): void {
  addScoreHead(model, options);
  model.parameters.get("lm_head.weight")?.dispose();
  model.parameters.delete("lm_head.weight");
  model.config = { ...model.config, tiedHead: true };
  const { hfConfig, config } = model;
  const architectures = Array.isArray(hfConfig.architectures) ? (hfConfig.architectures as unknown[]) : [];
  const labels = Array.from({ length: config.numLabels! }, (_, i) => `LABEL_${i}`);
  model.hfConfig = {
    ...hfConfig,
    architectures: architectures.map((name) => String(name).replace(/ForCausalLM$/, "ForSequenceClassification")),
    id2label: Object.fromEntries(labels.map((label, i) => [String(i), label])),
    label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
  };
}
