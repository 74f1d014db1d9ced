/** Whether a completion was cut off: its last token is none of those that end one. */
export const isTruncated = (completion: readonly number[], ends: ReadonlySet<number | null>): boolean =>
  !ends.has(completion.at(-1)!);

/** TRL's numbers about the lengths of completions, in tokens; "terminated": those that were not cut off. */
export function completionMetrics(
  completions: readonly (readonly number[])[],
  ends: ReadonlySet<number | null>,
): Record<string, number> {
  const lengths = completions.map(({ length }) => length);
  const whole = completions.filter((completion) => !isTruncated(completion, ends)).map(({ length }) => length);
  const terminated = whole.length > 0 ? whole : [0];
  return {
    "completions/mean_length": mean(lengths),
    "completions/min_length": Math.min(...lengths),
    "completions/max_length": Math.max(...lengths),
    "completions/clipped_ratio": 1 - whole.length / completions.length,
    "completions/mean_terminated_length": mean(terminated),
    "completions/min_terminated_length": Math.min(...terminated),
    "completions/max_terminated_length": Math.max(...terminated),
  };
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
