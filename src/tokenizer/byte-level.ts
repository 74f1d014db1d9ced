/**
 * GPT-2's spelling of bytes as printable characters: the printable Latin-1 characters stand for themselves, the other
 * bytes, in order, for U+0100 onwards (a space is "Ġ", U+0120).
 */
export const BYTE_TO_CHAR: readonly string[] = (() => {
  const printable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();

const CHAR_TO_BYTE = new Map(BYTE_TO_CHAR.map((char, byte) => [char, byte]));
const encoder = new TextEncoder();

/** UTF-8 bytes of a text, in the spelling. */
export function spellBytes(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += BYTE_TO_CHAR[byte];
  return text;
}

/** The bytes a spelled token stands for, or null where a character is not of the spelling (an added token's may be). */
export function spelledBytes(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = CHAR_TO_BYTE.get(token[i]!);
    if (byte === undefined) return null;
    bytes[i] = byte;
  }
  return bytes;
}

/** As `spelledBytes`; a token that is not in the spelling stands for its own UTF-8 bytes. */
export function tokenBytes(token: string): Uint8Array {
  return spelledBytes(token) ?? encoder.encode(token);
}
