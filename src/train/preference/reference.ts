import type { Value } from "../../graph/graph.ts";
import type { ModelAdapter } from "../../models/adapter.ts";
import { DecoderTrace } from "../../models/decoder.ts";
import type { CausalLM } from "../../models/model.ts";
import type { InitialAdapter } from "../initial-adapter.ts";
import type { LossContext } from "../loss.ts";

/**
 * The model that the trained one is compared with: its own weights with another adapter or none, or with its own as it was
 * before training; another model; or
 * numbers that the batches bring along.
 */
export type Reference =
  | { readonly kind: "adapter"; readonly adapter: ModelAdapter | null }
  | { readonly kind: "initial"; readonly initial: InitialAdapter }
  | { readonly kind: "model"; readonly model: CausalLM; readonly maxPositions: number }
  | { readonly kind: "precomputed" };

/** The reference traced in this program; null where the batch has its numbers. */
export function traceReference(ctx: LossContext, reference: Reference): DecoderTrace | null {
  switch (reference.kind) {
    case "adapter":
      return ctx.traceWith(reference.adapter);
    case "initial":
      return ctx.traceWith(reference.initial.adapter);
    case "model":
      return new DecoderTrace(ctx.graph, reference.model, { maxPositions: reference.maxPositions });
    case "precomputed":
      return null;
  }
}

/** What `scored` computes with the reference, or else the batch's input of that name. */
export function referenceScores(
  ctx: LossContext,
  reference: Reference,
  scored: (trace: DecoderTrace) => Value,
  input = "reference",
): Value {
  const trace = traceReference(ctx, reference);
  return trace ? scored(trace) : ctx.input(input);
}
