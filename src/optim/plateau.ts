/** Where a plateau schedule stands, fit for JSON (`best` is null before the first evaluation). */
export interface PlateauState {
  rate: number;
  best: number | null;
  badEvaluations: number;
  cooldownLeft: number;
}

export interface PlateauOptions {
  readonly learningRate: number;
  readonly greaterIsBetter: boolean;
  /** PyTorch's arguments in camelCase, checked by `scheduleSettings`. */
  readonly settings: Readonly<Record<string, number | string>>;
}

/**
 * PyTorch's ReduceLROnPlateau: the learning rate times `factor` (0.1) after more than `patience` (10) evaluations in a row
 * without an improvement by `threshold` (1e-4 of the best), then `cooldown` (0) evaluations that do not count; never below
 * `minLr` (0), and no change smaller than `eps` (1e-8).
 */
export class Plateau {
  private readonly options: PlateauOptions;
  private current: PlateauState;

  constructor(options: PlateauOptions) {
    this.options = options;
    this.current = { rate: options.learningRate, best: null, badEvaluations: 0, cooldownLeft: 0 };
  }

  get rate(): number {
    return this.current.rate;
  }

  /** Take the metric of one evaluation. */
  observe(metric: number): void {
    const { current } = this;
    if (current.best === null || this.isBetter(metric, current.best)) {
      current.best = metric;
      current.badEvaluations = 0;
    } else {
      current.badEvaluations++;
    }
    if (current.cooldownLeft > 0) {
      current.cooldownLeft--;
      current.badEvaluations = 0;
    }
    if (current.badEvaluations <= this.number("patience", 10)) return;
    const lower = Math.max(current.rate * this.number("factor", 0.1), this.number("minLr", 0));
    if (current.rate - lower > this.number("eps", 1e-8)) current.rate = lower;
    current.cooldownLeft = this.number("cooldown", 0);
    current.badEvaluations = 0;
  }

  state(): PlateauState {
    return { ...this.current };
  }

  restore(state: PlateauState): void {
    this.current = { ...state };
  }

  private isBetter(metric: number, best: number): boolean {
    const { settings, greaterIsBetter } = this.options;
    // transformers leaves PyTorch's "min" whatever greater_is_better says, and so lowers the rate of a rising accuracy.
    const rising = (settings.mode ?? (greaterIsBetter ? "max" : "min")) === "max";
    const threshold = rising ? this.number("threshold", 1e-4) : -this.number("threshold", 1e-4);
    const bound = settings.thresholdMode === "abs" ? best + threshold : best * (1 + threshold);
    return rising ? metric > bound : metric < bound;
  }

  private number(name: string, otherwise: number): number {
    return (this.options.settings[name] as number | undefined) ?? otherwise;
  }
}
