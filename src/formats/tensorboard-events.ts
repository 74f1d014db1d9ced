/** TensorBoard's Event and Summary messages in protobuf's wire format (tensorflow/core/util/event.proto, summary.proto). */

export interface TensorBoardEvent {
  /** Seconds since 1970. */
  readonly wallTime: number;
  /** An integer; 0 when left out. */
  readonly step?: number;
  readonly summary: readonly SummaryValue[];
}

/** A number or a text under a tag, e.g. "train/loss". */
export type SummaryValue =
  | { readonly tag: string; readonly scalar: number }
  | { readonly tag: string; readonly text: string };

/** The first event of every file. */
export function versionEvent(wallTime: number, writer: string): Uint8Array {
  return message([double(1, wallTime), text(3, "brain.Event:2"), nested(10, [text(1, writer)])]);
}

/** An event with scalars (as simple_value) and texts (as string tensors of the text plugin). */
export function encodeEvent({ wallTime, step = 0, summary }: TensorBoardEvent): Uint8Array {
  const values = summary.map((value) => nested(1, "scalar" in value ? scalarValue(value) : textValue(value)));
  return message([double(1, wallTime), ...(step === 0 ? [] : [varintField(2, step)]), nested(5, values)]);
}

function scalarValue({ tag, scalar }: { tag: string; scalar: number }): Uint8Array[] {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(scalar);
  return [text(1, tag), concat([key(2, FIXED32), bytes])];
}

function textValue({ tag, text: content }: { tag: string; text: string }): Uint8Array[] {
  const shape = nested(2, [nested(2, [varintField(1, 1)])]);
  const tensor = nested(8, [varintField(1, DT_STRING), shape, text(8, content)]);
  const metadata = nested(9, [nested(1, [text(1, "text")])]);
  // Fields in the order of their numbers, as protobuf's own writers have them.
  return [text(1, `${tag}/text_summary`), tensor, metadata];
}

const DT_STRING = 7;
const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5];

const concat = (parts: readonly Uint8Array[]): Uint8Array => Buffer.concat(parts);
const message = concat;
const key = (field: number, type: number): Uint8Array => varint(field * 8 + type);
const varintField = (field: number, value: number): Uint8Array => concat([key(field, VARINT), varint(value)]);
const text = (field: number, value: string): Uint8Array => bytesField(field, Buffer.from(value));
const nested = (field: number, parts: readonly Uint8Array[]): Uint8Array => bytesField(field, message(parts));

function bytesField(field: number, bytes: Uint8Array): Uint8Array {
  return concat([key(field, BYTES), varint(bytes.length), bytes]);
}

function double(field: number, value: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return concat([key(field, FIXED64), bytes]);
}

/** Seven bits a byte, the lowest first; for non-negative integers. */
function varint(value: number): Uint8Array {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`TensorBoard event: found ${value}; expected a non-negative integer`);
  }
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}
