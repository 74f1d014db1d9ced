import type { DecoderTrace } from "../../models/decoder.ts";
import type { CausalLM } from "../../models/model.ts";
import { PeftModel } from "../../peft/index.ts";
import { OptionError } from "../../util/options.ts";
import { InitialAdapter } from "../initial-adapter.ts";
import type { LossContext } from "../loss.ts";
import { type Reference, traceReference } from "./reference.ts";

/** Where the reference's numbers come from. */
export interface ReferencePlan {
  /** What the loss asks. */
  readonly reference: Reference;
  /** What is run over the data beforehand; null: nothing is. */
  readonly scorer: Exclude<Reference, { kind: "precomputed" }> | null;
  /** The scorer is what is trained: it is a reference only until the first step. */
  readonly live: boolean;
  /** The adapter before training, where that is the reference. */
  readonly initial: InitialAdapter | null;
}

/** Another model on the same backend; "base": the model itself without its adapter. */
export type RefModel = PeftModel | CausalLM | "base";

export interface ReferenceOptions {
  readonly owner: string;
  readonly model: PeftModel | CausalLM;
  readonly refModel: RefModel | null | undefined;
  readonly modelAdapterName: string | null;
  readonly refAdapterName: string | null;
  readonly precompute: boolean;
  readonly maxPositions: number;
}

/**
 * Which reference a training has: a model that is given, a named adapter, or else the model as it is before training: with
 * its adapter, where that has an effect. Where all weights are trained, or the reference is the adapter by its own name, only
 * numbers computed beforehand can tell. Throws OptionError.
 */
export function planReference(options: ReferenceOptions): ReferencePlan {
  const { owner, model, refModel, refAdapterName, precompute, maxPositions } = options;
  const fail = (message: string): never => {
    throw new OptionError(`${owner}: ${message}`);
  };
  const planned = (scorer: NonNullable<ReferencePlan["scorer"]>, live = false): ReferencePlan => {
    const initial = scorer.kind === "initial" ? scorer.initial : null;
    return precompute || live
      ? { reference: { kind: "precomputed" }, scorer, live, initial }
      : { reference: scorer, scorer: null, live: false, initial };
  };
  const lm = model instanceof PeftModel ? model.model : model;
  if (refModel) {
    if (refAdapterName !== null) fail("give refModel or refAdapterName, not both");
    if (refModel === "base") {
      if (model instanceof PeftModel) return planned({ kind: "adapter", adapter: null });
      return fail('refModel "base": the model has no adapter to be taken off; leave refModel out');
    }
    const other = refModel instanceof PeftModel ? refModel.model : refModel;
    if (other === lm) fail("model and refModel are the same; leave refModel out, or name an adapter: refAdapterName");
    if (other.backend !== lm.backend) fail("refModel is on another backend than model; load it on the same one");
    if (other.config.vocabSize !== lm.config.vocabSize) {
      fail(
        `refModel has ${other.config.vocabSize} tokens and model ${lm.config.vocabSize}: they do not belong together`,
      );
    }
    return planned({ kind: "model", model: other, maxPositions });
  }
  if (!(model instanceof PeftModel)) {
    if (refAdapterName !== null) fail(`refAdapterName "${refAdapterName}": the model has no adapters`);
    return planned({ kind: "adapter", adapter: null }, true);
  }
  if (refAdapterName === null) return planned({ kind: "initial", initial: new InitialAdapter(model.adapter) });
  const adapter = model.adapters.get(refAdapterName);
  if (!adapter) {
    const names = [...model.adapters.keys()].join(", ");
    return fail(`refAdapterName "${refAdapterName}": no such adapter; there are ${names}`);
  }
  return planned({ kind: "adapter", adapter }, refAdapterName === model.activeAdapter);
}

/** Uses the adapter that is to be trained. Throws OptionError. */
export function useAdapter(owner: string, model: PeftModel | CausalLM, name: string | null): void {
  if (name === null) return;
  if (!(model instanceof PeftModel)) {
    throw new OptionError(`${owner}: modelAdapterName "${name}": the model has no adapters`);
  }
  if (name !== model.activeAdapter) model.setAdapter(name);
}

/** The scorer traced. */
export const traceScorer = (ctx: LossContext, scorer: NonNullable<ReferencePlan["scorer"]>): DecoderTrace =>
  traceReference(ctx, scorer)!;
