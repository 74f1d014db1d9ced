import { show } from "./errors.ts";
import type { GgufCursor } from "./gguf-cursor.ts";

const NUMBER_ARRAYS = {
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  uint32: Uint32Array,
  int32: Int32Array,
  float32: Float32Array,
  uint64: BigUint64Array,
  int64: BigInt64Array,
  float64: Float64Array,
};
type NumberType = keyof typeof NUMBER_ARRAYS;
type NumberArray<T extends NumberType> = InstanceType<(typeof NUMBER_ARRAYS)[T]>;

/** An array value: numbers as the typed array of their type, booleans as bytes 0 and 1. */
export type GgufArray =
  | {
      [T in NumberType]: { readonly type: "array"; readonly elementType: T; readonly value: NumberArray<T> };
    }[NumberType]
  | { readonly type: "array"; readonly elementType: "bool"; readonly value: Uint8Array }
  | { readonly type: "array"; readonly elementType: "string"; readonly value: readonly string[] }
  | { readonly type: "array"; readonly elementType: "array"; readonly value: readonly GgufArray[] };

/** A metadata value, with its type in the file. */
export type GgufValue =
  | { [T in NumberType]: { readonly type: T; readonly value: NumberArray<T>[number] } }[NumberType]
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | GgufArray;

export type GgufValueType = GgufValue["type"];

/** In the order of their ids in the file. */
const VALUE_TYPES: readonly GgufValueType[] = [
  "uint8",
  "int8",
  "uint16",
  "int16",
  "uint32",
  "int32",
  "float32",
  "bool",
  "string",
  "array",
  "uint64",
  "int64",
  "float64",
];

const MAX_KEYS = 65536;
/** Bytes of a key, by the specification. */
const MAX_KEY_BYTES = 65535;
// An empty array takes 12 bytes in the file and some 300 in memory.
const MAX_NESTED_ARRAYS = 65536;
const MAX_DEPTH = 4;

/** Parses `count` key-value pairs. Throws `FormatError`. */
export function parseMetadata(cursor: GgufCursor, count: bigint): Map<string, GgufValue> {
  if (count > MAX_KEYS) cursor.fail(String(count), `at most ${MAX_KEYS} metadata keys`);
  const metadata = new Map<string, GgufValue>();
  const budget = { nestedArrays: MAX_NESTED_ARRAYS };
  for (let i = 0; i < count; i++) {
    cursor.field = `metadata key ${i}`;
    const key = cursor.string();
    if (key === "" || key.length > MAX_KEY_BYTES) cursor.fail(show(key), `1 to ${MAX_KEY_BYTES} bytes`);
    if (metadata.has(key)) cursor.fail(`${show(key)} again`, "every key once");
    cursor.field = `metadata ${show(key)}`;
    const type = valueType(cursor);
    metadata.set(key, type === "array" ? parseArray(cursor, budget, 1) : parseScalar(cursor, type));
  }
  return metadata;
}

function valueType(cursor: GgufCursor): GgufValueType {
  const id = cursor.u32();
  return VALUE_TYPES[id] ?? cursor.fail(`type ${id}`, `a type from 0 to ${VALUE_TYPES.length - 1}`);
}

function parseScalar(cursor: GgufCursor, type: Exclude<GgufValueType, "array">): GgufValue {
  if (type === "string") return { type, value: cursor.string() };
  if (type === "bool") return { type, value: parseBools(cursor, 1)[0] === 1 };
  // The compiler does not see that the type of the value follows from `type`.
  return { type, value: parseNumbers(cursor, type, 1)[0] } as GgufValue;
}

function parseArray(cursor: GgufCursor, budget: { nestedArrays: number }, depth: number): GgufArray {
  const elementType = valueType(cursor);
  // Each element takes at least a byte, so no count can exceed the bytes left.
  const count = cursor.size(cursor.remaining, `an element count within the ${cursor.remaining} bytes left`);
  switch (elementType) {
    case "string": {
      // Grown as strings are found, each at least 8 bytes: never sized by the count the file claims.
      const value: string[] = [];
      for (let i = 0; i < count; i++) value.push(cursor.string());
      return { type: "array", elementType, value };
    }
    case "array": {
      if (depth === MAX_DEPTH) cursor.fail(`arrays nested ${depth + 1} deep`, `at most ${MAX_DEPTH}`);
      budget.nestedArrays -= count;
      if (budget.nestedArrays < 0) cursor.fail("more nested arrays", `at most ${MAX_NESTED_ARRAYS} in a file`);
      const value: GgufArray[] = [];
      for (let i = 0; i < count; i++) value.push(parseArray(cursor, budget, depth + 1));
      return { type: "array", elementType, value };
    }
    case "bool":
      return { type: "array", elementType, value: parseBools(cursor, count) };
    default:
      return { type: "array", elementType, value: parseNumbers(cursor, elementType, count) } as GgufArray;
  }
}

function parseNumbers<T extends NumberType>(cursor: GgufCursor, type: T, count: number): NumberArray<T> {
  const kind = NUMBER_ARRAYS[type];
  cursor.require(count * kind.BYTES_PER_ELEMENT);
  const values = new kind(count);
  cursor.bytes(new Uint8Array(values.buffer));
  return values as NumberArray<T>;
}

function parseBools(cursor: GgufCursor, count: number): Uint8Array {
  const value = parseNumbers(cursor, "uint8", count);
  const bad = value.find((byte) => byte > 1);
  if (bad !== undefined) cursor.fail(`a boolean of ${bad}`, "0 or 1");
  return value;
}
