import type { Batch } from "../../data/collate.ts";
import { number, record } from "../python-json-reader.ts";
import type { GRPOValues } from "./grpo-config.ts";

export type EntropySettings = Pick<
  GRPOValues,
  "entropyCoef" | "useAdaptiveEntropy" | "entropyCoefMin" | "entropyCoefMax" | "entropyCoefDelta" | "entropyTarget"
>;

/** Whether the loss has an entropy bonus: with control also while its weight is 0. */
export const hasEntropyBonus = (settings: Pick<EntropySettings, "entropyCoef" | "useAdaptiveEntropy">): boolean =>
  settings.entropyCoef !== 0 || settings.useAdaptiveEntropy;

/**
 * The weight of the entropy bonus, fixed or controlled (He et al., "Skywork Open Reasoner 1", 2025): raised by a step where
 * an update's mean entropy a token was at the target or below, else lowered, and applied in the former case only.
 */
export class EntropyControl {
  private readonly settings: EntropySettings;
  private coef: number;
  /** Mean entropy of the last update; infinity before the first. */
  private last = Number.POSITIVE_INFINITY;
  private sum = 0;
  private tokens = 0;

  constructor(settings: EntropySettings) {
    this.settings = settings;
    this.coef = settings.entropyCoef;
  }

  /** What the bonus is multiplied with in the update at hand. */
  get applied(): number {
    const { useAdaptiveEntropy, entropyTarget } = this.settings;
    return useAdaptiveEntropy && this.last > entropyTarget ? 0 : this.coef;
  }

  /** A microbatch of the update, with its tokens' entropies f32[T]. */
  observe(entropy: Float32Array, { inputs }: Batch): void {
    const sequence = inputs!.sequence!.data;
    const keep = inputs!.keep?.data;
    entropy.forEach((value, t) => {
      if (keep ? keep[t]! === 0 : sequence[t]! < 0) return;
      this.sum += value;
      this.tokens++;
    });
  }

  /** The update is done; gives the weight as it is from now on. */
  updated(): number {
    const { useAdaptiveEntropy, entropyTarget, entropyCoefDelta, entropyCoefMin, entropyCoefMax } = this.settings;
    if (useAdaptiveEntropy) {
      this.last = this.sum / Math.max(1, this.tokens);
      this.coef =
        this.last <= entropyTarget
          ? Math.min(this.coef + entropyCoefDelta, entropyCoefMax)
          : Math.max(this.coef - entropyCoefDelta, entropyCoefMin);
    }
    this.sum = this.tokens = 0;
    return this.coef;
  }

  /** For a checkpoint, between updates; null: there is nothing to go on from. */
  state(): Record<string, unknown> | null {
    if (!this.settings.useAdaptiveEntropy) return null;
    return { entropy_coef: this.coef, ...(Number.isFinite(this.last) && { last_entropy: this.last }) };
  }

  /** Throws FormatError. */
  restore(state: unknown, file: string): void {
    if (!this.settings.useAdaptiveEntropy) return;
    const saved = record({ entropy: state }, "entropy", file);
    this.coef = number(saved, "entropy_coef", file);
    this.last = "last_entropy" in saved ? number(saved, "last_entropy", file) : Number.POSITIVE_INFINITY;
  }
}
