/** Means and deviations that leave NaN out, as torch's nanmean and TRL's nanstd: NaN when nothing is left. */

export function nanMean(values: ArrayLike<number>): number {
  let [total, count] = [0, 0];
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i]!)) continue;
    total += values[i]!;
    count++;
  }
  return total / count;
}

/** Standard deviation with Bessel's correction; NaN for fewer than two numbers. */
export function nanStd(values: ArrayLike<number>): number {
  const mean = nanMean(values);
  let [total, count] = [0, 0];
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i]!)) continue;
    total += (values[i]! - mean) ** 2;
    count++;
  }
  return count > 1 ? Math.sqrt(total / (count - 1)) : Number.NaN;
}

/** The q-quantile with linear interpolation (torch.quantile); NaN of nothing. */
export function quantile(values: Iterable<number>, q: number): number {
  const sorted = Float64Array.from(values).sort();
  const at = q * (sorted.length - 1);
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  return low + (at - Math.floor(at)) * ((sorted[Math.ceil(at)] ?? Number.NaN) - low);
}
