import type { Batch } from "../../data/collate.ts";
import type { PPOValues } from "./ppo-config.ts";

/** What TRL logs of the updates of a rollout: numbers a microbatch, and their means when the rollout is done. */
export class UpdateStatistics {
  private readonly settings: Pick<PPOValues, "cliprange" | "cliprangeValue">;
  private lists = new Map<string, number[]>();

  constructor(settings: Pick<PPOValues, "cliprange" | "cliprangeValue">) {
    this.settings = settings;
  }

  /**
   * A microbatch of the policy, from its log-probabilities and entropies f32[T]. TRL's approxkl and ratio are means over
   * all places of the padded batch, where they are 0 and 1 beyond a response's end; its entropy is that of padding too,
   * which here is left out.
   */
  addPolicy(logps: Float32Array, entropy: Float32Array, { labels, inputs }: Batch): Record<string, number> {
    const { cliprange } = this.settings;
    const old = inputs!.old!.data;
    const advantages = inputs!.advantages!.data;
    const entries = inputs!.entries!.data[0]!;
    let [count, squares, ratios, clipped, loss, entropies] = [0, 0, 0, 0, 0, 0];
    for (let t = 0; t < labels.length; t++) {
      if (labels[t] === -100) continue;
      const change = logps[t]! - old[t]!;
      const ratio = Math.exp(change);
      const free = -advantages[t]! * ratio;
      const held = -advantages[t]! * Math.min(Math.max(ratio, 1 - cliprange), 1 + cliprange);
      count++;
      squares += change * change;
      ratios += ratio;
      clipped += Number(held > free);
      loss += Math.max(free, held);
      entropies += entropy[t]!;
    }
    const places = Math.max(1, count);
    this.add({
      "policy/approxkl_avg": (0.5 * squares) / entries,
      "policy/clipfrac_avg": clipped / places,
      "loss/policy_avg": loss / places,
      "policy/entropy_avg": entropies / places,
      "val/ratio": (ratios + entries - count) / entries,
    });
    return {};
  }

  /** A microbatch of the value model, from its predictions f32[T]. */
  addValue(predicted: Float32Array, { inputs }: Batch): Record<string, number> {
    const { cliprangeValue } = this.settings;
    const [counted, values, returns] = [inputs!.counted!.data, inputs!.values!.data, inputs!.returns!.data];
    let [count, clipped, loss] = [0, 0, 0];
    for (let t = 0; t < counted.length; t++) {
      if (counted[t] === 0) continue;
      const change = predicted[t]! - values[t]!;
      const held = values[t]! + Math.min(Math.max(change, -cliprangeValue), cliprangeValue);
      const [free, bounded] = [(predicted[t]! - returns[t]!) ** 2, (held - returns[t]!) ** 2];
      count++;
      clipped += Number(Math.abs(change) > cliprangeValue && bounded > free);
      loss += 0.5 * Math.max(free, bounded);
    }
    this.add({ "loss/value_avg": loss / count, "val/clipfrac_avg": clipped / count });
    return {};
  }

  /** Means over the microbatches since the last call, and the variance of their mean ratios. */
  take(): Record<string, number> {
    const means = Object.fromEntries([...this.lists].map(([name, list]) => [name, meanOf(list)]));
    const ratios = this.lists.get("val/ratio") ?? [];
    const variance = ratios.reduce((sum, x) => sum + (x - means["val/ratio"]!) ** 2, 0) / (ratios.length - 1);
    this.lists.clear();
    return { ...means, ...(ratios.length > 1 && { "val/ratio_var": variance }) };
  }

  private add(numbers: Readonly<Record<string, number>>): void {
    for (const [name, value] of Object.entries(numbers)) {
      const list = this.lists.get(name);
      if (list) list.push(value);
      else this.lists.set(name, [value]);
    }
  }
}

const meanOf = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;
