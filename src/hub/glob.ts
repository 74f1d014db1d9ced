/**
 * Whether a file name matches a pattern, by the rules of Python's fnmatch, which huggingface_hub uses: `*` anything,
 * slashes too, `?` one character, `[abc]` and `[!a-c]` a set. A pattern that ends in "/" means everything below.
 * Takes time linear in pattern × name: no pattern can make it backtrack for long.
 */
export function matchesPattern(name: string, pattern: string): boolean {
  const parts = parse(pattern.endsWith("/") ? `${pattern}*` : pattern);
  // reached[i]: the first i parts match what was read so far.
  let reached = start(parts);
  for (const character of name) {
    const next = parts.map(() => false);
    next.push(false);
    for (const [i, part] of parts.entries()) {
      if (part === "*") {
        if (reached[i] || reached[i + 1]) next[i + 1] = true;
      } else if (reached[i] && part(character)) next[i + 1] = true;
    }
    reached = skipStars(next, parts);
  }
  return reached[parts.length]!;
}

type Part = "*" | ((character: string) => boolean);

function start(parts: readonly Part[]): boolean[] {
  return skipStars([true, ...parts.map(() => false)], parts);
}

function skipStars(reached: boolean[], parts: readonly Part[]): boolean[] {
  for (const [i, part] of parts.entries()) if (part === "*" && reached[i]) reached[i + 1] = true;
  return reached;
}

function parse(pattern: string): Part[] {
  const characters = [...pattern];
  const parts: Part[] = [];
  for (let i = 0; i < characters.length; i++) {
    const c = characters[i]!;
    if (c === "*") parts.push("*");
    else if (c === "?") parts.push(() => true);
    else {
      const end = c === "[" ? setEnd(characters, i) : -1;
      if (end < 0) parts.push((character) => character === c);
      else {
        parts.push(characterSet(characters.slice(i + 1, end)));
        i = end;
      }
    }
  }
  return parts;
}

/** The bracket that closes a set; -1 if none does. One right after the opening (or `[!`) is a member. */
function setEnd(characters: readonly string[], open: number): number {
  return characters.indexOf("]", open + (characters[open + 1] === "!" ? 3 : 2));
}

function characterSet(inside: readonly string[]): (character: string) => boolean {
  const negated = inside[0] === "!";
  const members = negated ? inside.slice(1) : inside;
  const ranges: [string, string][] = [];
  for (let i = 0; i < members.length; i++) {
    const isRange = members[i + 1] === "-" && members[i + 2] !== undefined;
    ranges.push([members[i]!, isRange ? members[i + 2]! : members[i]!]);
    if (isRange) i += 2;
  }
  return (character) => ranges.some(([from, to]) => from <= character && character <= to) !== negated;
}
