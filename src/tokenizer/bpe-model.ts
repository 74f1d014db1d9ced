import { FormatError, show } from "../formats/errors.ts";
import { BYTE_TO_CHAR, spellBytes } from "./byte-level.ts";
import { PairTable } from "./pair-table.ts";
import { type Component, isRecord, isTokenId } from "./tokenizer-json.ts";

/** A tokenizer's model: turns one piece of text into token ids. */
export interface TokenModel {
  /** Token string to id, without added tokens. */
  readonly vocab: ReadonlyMap<string, number>;
  /** Appends the ids of `piece`. */
  encode(piece: string, out: number[]): void;
  /** As `encode`, also appending how many UTF-8 bytes of `piece` each token covers. Absent where that is unknown. */
  encodeWithLengths?(piece: string, ids: number[], lengths: number[]): void;
}

/** A piece's ids, and how many UTF-8 bytes of it each covers. */
interface EncodedPiece {
  ids: number[];
  lengths: number[];
}

const CACHED_PIECES = 2 ** 16;
const CACHED_PIECE_LENGTH = 64;

/**
 * Byte-pair encoding. The piece starts as one symbol a byte (`byteLevel`) or a character; then, while any two neighbours
 * have a merge, the pair of lowest rank, the leftmost of equals, becomes one symbol. O(n log n) by a heap of pairs.
 * Characters outside the vocabulary become their bytes' tokens (`byte_fallback`), else the unknown token.
 *
 * Same ids as Hugging Face tokenizers 0.23. Ours rather than @huggingface/tokenizers', which works on strings: about
 * three times as fast on text it has not seen, and it gives offsets.
 */
export class BpeModel implements TokenModel {
  readonly vocab: ReadonlyMap<string, number>;
  readonly #byteLevel: boolean;
  readonly #ignoreMerges: boolean;
  readonly #fuseUnknown: boolean;
  readonly #unknown: number;
  /** Id of each byte's symbol: the spelled byte, or "<0x41>" with byte fallback; −1 where there is none. */
  readonly #byteIds: Int32Array;
  readonly #byteFallback: boolean;
  readonly #pairs: PairTable;
  readonly #cache = new Map<string, EncodedPiece>();

  // The symbols of the piece at hand, a doubly linked list over array slots.
  #ids = new Int32Array(64);
  #bytes = new Int32Array(64);
  #next = new Int32Array(64);
  #previous = new Int32Array(64);
  /** Rank of the merge of a symbol with its next one, or −1. */
  #rank = new Int32Array(64);
  readonly #heap: number[] = [];

  constructor(model: Component, byteLevel: boolean) {
    for (const field of ["continuing_subword_prefix", "end_of_word_suffix"]) {
      const value = model[field] ?? "";
      if (value !== "") throw new FormatError({ field: `model.${field}`, found: show(value), expected: '"" or null' });
    }
    this.vocab = readVocab(model.vocab);
    this.#byteLevel = byteLevel;
    this.#ignoreMerges = model.ignore_merges === true;
    this.#fuseUnknown = model.fuse_unk === true;
    this.#byteFallback = model.byte_fallback === true && !byteLevel;
    this.#unknown = typeof model.unk_token === "string" ? (this.vocab.get(model.unk_token) ?? -1) : -1;
    const spell = (byte: number): string =>
      byteLevel ? BYTE_TO_CHAR[byte]! : `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
    this.#byteIds = Int32Array.from({ length: 256 }, (_, byte) => this.vocab.get(spell(byte)) ?? -1);
    this.#pairs = readMerges(model.merges, this.vocab);
  }

  encode(piece: string, out: number[]): void {
    const { ids } = this.#encoded(piece);
    for (let i = 0; i < ids.length; i++) out.push(ids[i]!);
  }

  encodeWithLengths(piece: string, ids: number[], lengths: number[]): void {
    const encoded = this.#encoded(piece);
    for (let i = 0; i < encoded.ids.length; i++) {
      ids.push(encoded.ids[i]!);
      lengths.push(encoded.lengths[i]!);
    }
  }

  #encoded(piece: string): EncodedPiece {
    let encoded = this.#cache.get(piece);
    if (encoded === undefined) {
      encoded = this.#encodeAfresh(piece);
      if (piece.length <= CACHED_PIECE_LENGTH) {
        // Emptied rather than trimmed: words recur so often that it fills again at once.
        if (this.#cache.size >= CACHED_PIECES) this.#cache.clear();
        this.#cache.set(piece, encoded);
      }
    }
    return encoded;
  }

  #encodeAfresh(piece: string): EncodedPiece {
    const bytes = Buffer.from(piece, "utf8");
    if (this.#ignoreMerges) {
      const whole = this.vocab.get(this.#byteLevel ? spellBytes(bytes) : piece);
      if (whole !== undefined) return { ids: [whole], lengths: [bytes.length] };
    }
    const encoded: EncodedPiece = { ids: [], lengths: [] };
    const count = this.#start(piece, bytes);
    if (count === 0) return encoded;
    this.#merge(count);
    for (let i = 0; i !== -1; i = this.#next[i]!) {
      encoded.ids.push(this.#ids[i]!);
      encoded.lengths.push(this.#bytes[i]!);
    }
    return encoded;
  }

  /** Lays out the first symbols; returns how many. */
  #start(piece: string, bytes: Uint8Array): number {
    if (bytes.length > this.#ids.length) this.#grow(bytes.length);
    let count = 0;
    let lastIsUnknown = false;
    const add = (id: number, length: number): void => {
      this.#ids[count] = id;
      this.#bytes[count] = length;
      count++;
    };
    const addUnknown = (length: number): void => {
      // Without an unknown token the character is dropped, as Hugging Face tokenizers do.
      if (this.#unknown === -1) return;
      if (this.#fuseUnknown && lastIsUnknown) this.#bytes[count - 1]! += length;
      else add(this.#unknown, length);
      lastIsUnknown = true;
    };
    if (this.#byteLevel) {
      for (const byte of bytes) {
        const id = this.#byteIds[byte]!;
        if (id === -1) {
          addUnknown(1);
          continue;
        }
        add(id, 1);
        lastIsUnknown = false;
      }
    } else {
      let at = 0;
      for (const char of piece) {
        const length = utf8Length(char.codePointAt(0)!);
        const id = this.vocab.get(char);
        if (id !== undefined) {
          add(id, length);
          lastIsUnknown = false;
        } else if (this.#byteFallback && this.#haveBytes(bytes, at, at + length)) {
          for (let i = at; i < at + length; i++) add(this.#byteIds[bytes[i]!]!, 1);
          lastIsUnknown = false;
        } else {
          addUnknown(length);
        }
        at += length;
      }
    }
    for (let i = 0; i < count; i++) {
      this.#previous[i] = i - 1;
      this.#next[i] = i + 1 < count ? i + 1 : -1;
    }
    return count;
  }

  #haveBytes(bytes: Uint8Array, from: number, to: number): boolean {
    for (let i = from; i < to; i++) if (this.#byteIds[bytes[i]!] === -1) return false;
    return true;
  }

  #merge(count: number): void {
    this.#heap.length = 0;
    for (let i = 0; i < count; i++) this.#queue(i);
    while (this.#heap.length > 0) {
      const key = popHeap(this.#heap);
      const at = key % POSITIONS;
      // A stale entry: one of the two symbols has since merged with another. A dead symbol's rank is −1.
      if (this.#rank[at] !== Math.floor(key / POSITIONS)) continue;
      const right = this.#next[at]!;
      this.#ids[at] = this.#pairs.merged[this.#pairs.find(this.#ids[at]!, this.#ids[right]!)]!;
      this.#bytes[at]! += this.#bytes[right]!;
      this.#rank[right] = -1;
      const after = this.#next[right]!;
      this.#next[at] = after;
      if (after !== -1) this.#previous[after] = at;
      this.#queue(at);
      if (this.#previous[at] !== -1) this.#queue(this.#previous[at]!);
    }
  }

  /** Looks up the merge of a symbol with its next one, and queues it. */
  #queue(at: number): void {
    const right = this.#next[at]!;
    const slot = right === -1 ? -1 : this.#pairs.find(this.#ids[at]!, this.#ids[right]!);
    const rank = slot === -1 ? -1 : this.#pairs.rank[slot]!;
    this.#rank[at] = rank;
    if (rank !== -1) pushHeap(this.#heap, rank * POSITIONS + at);
  }

  #grow(length: number): void {
    if (length >= POSITIONS)
      throw new RangeError(`a piece of ${length} bytes without a break; at most ${POSITIONS - 1}`);
    const size = 2 ** Math.ceil(Math.log2(length));
    this.#ids = new Int32Array(size);
    this.#bytes = new Int32Array(size);
    this.#next = new Int32Array(size);
    this.#previous = new Int32Array(size);
    this.#rank = new Int32Array(size);
  }
}

/** A heap key is rank · POSITIONS + position, exact in a double: both stay below 2^26. */
const POSITIONS = 2 ** 27;

function readVocab(value: unknown): Map<string, number> {
  if (!isRecord(value)) {
    throw new FormatError({ field: "model.vocab", found: show(value), expected: "an object of token to id" });
  }
  const vocab = new Map<string, number>();
  for (const [token, id] of Object.entries(value)) {
    if (!isTokenId(id)) {
      const field = `model.vocab[${show(token)}]`;
      throw new FormatError({ field, found: show(id), expected: "a non-negative integer id" });
    }
    vocab.set(token, id);
  }
  return vocab;
}

/** Merges are "a b" strings, or [a, b] pairs since tokenizers 0.20. */
function readMerges(value: unknown, vocab: ReadonlyMap<string, number>): PairTable {
  if (!Array.isArray(value)) {
    throw new FormatError({ field: "model.merges", found: show(value), expected: "an array of merges" });
  }
  const pairs = new PairTable(value.length);
  value.forEach((merge: unknown, rank) => {
    const space = typeof merge === "string" ? merge.indexOf(" ") : -1;
    const [a, b]: unknown[] =
      typeof merge === "string" ? [merge.slice(0, space), merge.slice(space + 1)] : Array.isArray(merge) ? merge : [];
    const left = typeof a === "string" ? vocab.get(a) : undefined;
    const right = typeof b === "string" ? vocab.get(b) : undefined;
    const merged = left === undefined || right === undefined ? undefined : vocab.get(`${a}${b}`);
    if (left === undefined || right === undefined || merged === undefined) {
      throw new FormatError({
        field: `model.merges[${rank}]`,
        found: show(merge),
        expected: "two tokens of the vocabulary that make a third",
      });
    }
    pairs.set(left, right, rank, merged);
  });
  return pairs;
}

function utf8Length(codePoint: number): number {
  return codePoint < 0x80 ? 1 : codePoint < 0x800 ? 2 : codePoint < 0x10000 ? 3 : 4;
}

function pushHeap(heap: number[], key: number): void {
  let at = heap.length;
  heap.push(key);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (heap[parent]! <= key) break;
    heap[at] = heap[parent]!;
    at = parent;
  }
  heap[at] = key;
}

function popHeap(heap: number[]): number {
  const top = heap[0]!;
  const key = heap.pop()!;
  const size = heap.length;
  if (size === 0) return top;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= size) break;
    if (child + 1 < size && heap[child + 1]! < heap[child]!) child++;
    if (heap[child]! >= key) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = key;
  return top;
}
