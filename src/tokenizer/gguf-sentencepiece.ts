const NORMAL = 1;
const USER_DEFINED = 4;

/**
 * The merges that a SentencePiece BPE vocabulary implies. SentencePiece joins the neighbours whose joint piece has the
 * highest score; so every way to cut a piece in two pieces is a merge, ranked by the score of the whole, and among cuts
 * of the same piece the longest left part first. User-defined pieces (Gemma's runs of spaces) are matched before any
 * merge there; here they come first, in the vocabulary's order.
 */
export function sentencePieceMerges(
  tokens: readonly string[],
  types: readonly number[],
  scores: ArrayLike<number>,
): [string, string][] {
  const joins = (id: number): boolean => types[id] === NORMAL || types[id] === USER_DEFINED;
  const ids = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (joins(id) && !ids.has(token)) ids.set(token, id);
  });
  const found: { left: string; right: string; id: number }[] = [];
  for (const [token, id] of ids) {
    // From the end, so that the longest left part comes first; never between the halves of a surrogate pair.
    for (let cut = token.length - 1; cut > 0; cut--) {
      const left = token.slice(0, cut);
      const right = token.slice(cut);
      if (ids.has(left) && ids.has(right)) found.push({ left, right, id });
    }
  }
  const group = (id: number): number => (types[id] === USER_DEFINED ? 0 : 1);
  const rank = (id: number): number => (types[id] === USER_DEFINED ? -id : scores[id]!);
  // The sort is stable, which keeps cuts of one piece in their order.
  found.sort((a, b) => group(a.id) - group(b.id) || rank(b.id) - rank(a.id) || a.id - b.id);
  return found.map(({ left, right }) => [left, right]);
}
