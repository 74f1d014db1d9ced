import { FormatError, show } from "../formats/errors.ts";

/** How a loss scaler is saved: torch.amp.GradScaler's state_dict, without the settings that never change. */
export interface LossScalerState {
  readonly scale: number;
  readonly growth_tracker: number;
}

/**
 * Dynamic loss scaling (Micikevicius et al. 2018, "Mixed precision training"; torch.amp.GradScaler with its defaults): the
 * loss is differentiated times `scale`, so that gradients of float16 activations do not vanish, and the gradients are
 * divided by it before they are clipped. A step whose gradients are not finite is left out and halves the scale; 2,000 good
 * ones in a row double it. Scales are powers of two: they change no digit.
 */
export class LossScaler {
  scale: number;
  private goodSteps = 0;

  constructor(scale = 65536) {
    this.scale = scale;
  }

  /** Note how a step's gradients were. */
  update(finite: boolean): void {
    this.goodSteps = finite ? this.goodSteps + 1 : 0;
    if (!finite) this.scale /= 2;
    if (this.goodSteps < GROWTH_INTERVAL) return;
    // At infinity, all gradients would be: a scale that f32 cannot hold is of no use.
    this.scale = Math.min(this.scale * 2, LARGEST);
    this.goodSteps = 0;
  }

  state(): LossScalerState {
    return { scale: this.scale, growth_tracker: this.goodSteps };
  }

  /** Go on from a state that `file` holds. Throws FormatError. */
  restore(state: Readonly<Record<string, unknown>>, file: string): void {
    const { scale, growth_tracker: goodSteps } = state;
    if (typeof scale !== "number" || !(scale > 0 && scale <= LARGEST)) {
      throw new FormatError({ file, field: "loss_scaler.scale", found: show(scale), expected: "a positive number" });
    }
    if (typeof goodSteps !== "number" || !Number.isInteger(goodSteps) || goodSteps < 0) {
      const expected = "a whole number from 0";
      throw new FormatError({ file, field: "loss_scaler.growth_tracker", found: show(goodSteps), expected });
    }
    [this.scale, this.goodSteps] = [scale, goodSteps];
  }
}

/** Good steps after which the scale doubles. */
const GROWTH_INTERVAL = 2000;
const LARGEST = 2 ** 127;
