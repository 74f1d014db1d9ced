import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { test } from "node:test";
import { oracleJson, oraclePath } from "../testing/oracle.ts";
import { TensorBoardWriter } from "./tensorboard.ts";
import { encodeEvent } from "./tensorboard-events.ts";
import { crc32c, maskedCrc32c, tfRecord } from "./tensorboard-records.ts";

interface Expected {
  readonly text: string;
  readonly scalars: { tag: string; value: number | null; step: number }[];
  readonly masked_crc32c: { hex: string; masked: number }[];
}

const expected = oracleJson<Expected>("tensorboard", "events.json");

function inFolder(body: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), "tensorboard-"));
  try {
    body(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("CRC-32C gives RFC 3720's values", () => {
  assert.equal(crc32c(Buffer.from("123456789")), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  assert.equal(crc32c(new Uint8Array(32).fill(255)), 0x62a8ab43);
});

test("masked checksums equal TensorBoard's", () => {
  for (const { hex, masked } of expected.masked_crc32c) assert.equal(maskedCrc32c(Buffer.from(hex, "hex")), masked);
});

test("an event file equals TensorBoard's, byte for byte", () => {
  inFolder((folder) => {
    let time = 1_700_000_000.25;
    // The clock is read once for the name and then once an event.
    let reads = 0;
    const writer = new TensorBoardWriter(join(folder, "runs", "a"), () => (reads++ === 0 ? time : time++));
    writer.text("args", expected.text);
    for (const { tag, value, step } of expected.scalars) writer.scalars({ [tag]: value ?? Number.NaN }, step);
    writer.close();
    const name = basename(writer.path);
    assert.ok(name.startsWith(`events.out.tfevents.1700000000.${hostname()}.${process.pid}.`), name);
    assert.deepEqual(readFileSync(writer.path), readFileSync(oraclePath("tensorboard", "events.bin")));
  });
});

test("two files started in the same second are two files", () => {
  inFolder((folder) => {
    const [a, b] = [new TensorBoardWriter(folder, () => 5), new TensorBoardWriter(folder, () => 5)];
    assert.notEqual(a.path, b.path);
    a.close();
    b.close();
    assert.throws(() => a.scalars({ "train/loss": 1 }, 1), /has been closed/);
  });
});

test("records of any length; steps beyond 2^32; negative steps are refused", () => {
  const record = tfRecord(new Uint8Array(70_000));
  assert.equal(record.length, 70_016);
  assert.equal(Buffer.from(record).readBigUInt64LE(), 70_000n);
  // Field 2, varint: 2^35 is 0x80 five times and 1.
  const event = Buffer.from(encodeEvent({ wallTime: 0, step: 2 ** 35, summary: [] }));
  assert.equal(event.subarray(9, 16).toString("hex"), "10808080808001");
  assert.throws(() => encodeEvent({ wallTime: 0, step: -1, summary: [] }), /non-negative integer/);
});
