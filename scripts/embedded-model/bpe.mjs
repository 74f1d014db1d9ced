// Byte-level byte-pair encoding (Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword
// Units", 2016): start from bytes, and again and again make the most frequent pair of neighbours one token.
import { BYTE_TO_CHAR, spellBytes, spelledBytes } from "../../dist/tokenizer/byte-level.js";

/**
 * Merges of pieces that were counted, most frequent pair first (of equals the one that sorts first), until there are
 * `vocabSize` tokens. Tokens stay within `maxBytes`, since made-up text repeats whole phrases, which would become tokens;
 * and none holds a part of a character beside another character.
 *
 * @param {Map<string, number>} pieces what the pre-tokenizer gives, with how often
 * @returns {{ vocab: string[], merges: [string, string][] }} tokens by id, and merges by rank
 */
export function trainBpe(pieces, { vocabSize, maxBytes }) {
  const words = [...pieces].map(([piece, count]) => ({ symbols: [...spellBytes(Buffer.from(piece))], count }));
  const vocab = [...BYTE_TO_CHAR].sort();
  const merges = [];
  const counts = new Map();
  const where = new Map();
  const tally = (word, sign) => {
    for (let i = 0; i + 1 < word.symbols.length; i++) {
      const key = `${word.symbols[i]} ${word.symbols[i + 1]}`;
      counts.set(key, (counts.get(key) ?? 0) + sign * word.count);
      if (sign > 0) where.set(key, (where.get(key) ?? new Set()).add(word));
    }
  };
  for (const word of words) tally(word, 1);
  while (vocab.length < vocabSize) {
    const best = mostFrequent(counts, maxBytes);
    if (best === null) break;
    const [left, right] = best.split(" ");
    merges.push([left, right]);
    vocab.push(left + right);
    for (const word of where.get(best)) {
      tally(word, -1);
      word.symbols = merged(word.symbols, left, right);
      tally(word, 1);
    }
    counts.delete(best);
    where.delete(best);
  }
  return { vocab, merges };
}

function mostFrequent(counts, maxBytes) {
  let best = null;
  let most = 1;
  for (const [key, count] of counts) {
    if (count < most || (count === most && best !== null && key > best)) continue;
    if (key.length - 1 <= maxBytes && isWhole(key.replace(" ", ""))) [best, most] = [key, count];
  }
  return best;
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** Whole characters, or the beginning of one: a lead byte and fewer bytes than it announces. */
function isWhole(token) {
  const bytes = spelledBytes(token);
  try {
    utf8.decode(bytes);
    return true;
  } catch {
    return (
      bytes[0] >= 0xe0 && bytes.length < (bytes[0] >= 0xf0 ? 4 : 3) && bytes.subarray(1).every((b) => b >> 6 === 2)
    );
  }
}

function merged(symbols, left, right) {
  const out = [];
  for (let i = 0; i < symbols.length; i++) {
    const joins = symbols[i] === left && symbols[i + 1] === right;
    out.push(joins ? left + right : symbols[i]);
    if (joins) i++;
  }
  return out;
}
