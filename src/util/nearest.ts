/**
 * The candidate most likely meant by a misspelt `name`, or null if none is close: at most a third of its letters wrong
 * (Damerau–Levenshtein, optimal string alignment), letter case, "-" and "_" not counted. The first of equals.
 */
export function nearest(name: string, candidates: Iterable<string>): string | null {
  const plain = (text: string): string => text.toLowerCase().replace(/[-_]/g, "");
  // Comparing very long names would take long, and none is a slip of the pen.
  const target = plain(name).slice(0, 100);
  let best: string | null = null;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const other = plain(candidate);
    const distance = editDistance(target, other);
    if (distance < bestDistance && distance <= Math.max(target.length, other.length) / 3) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Fewest insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`, no letter edited twice. */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substituted = last[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row[j] = Math.min(substituted, last[j]! + 1, row[j - 1]! + 1);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        row[j] = Math.min(row[j]!, beforeLast[j - 2]! + 1);
      }
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length]!;
}
