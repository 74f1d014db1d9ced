import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { assertFormatError, fixtures } from "./files.test.support.ts";
import { GGML_TYPES, type GgmlType } from "./ggml-types.ts";
import { openGguf } from "./gguf.ts";
import { dequantizeBlocks, isDequantizable } from "./gguf-quants.ts";
import { openSafetensors } from "./safetensors.ts";

const supported = (Object.keys(GGML_TYPES) as GgmlType[]).filter(isDequantizable);

test("the supported types", () => {
  assert.deepEqual(supported.join(" "), "F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K BF16");
});

for (const type of supported) {
  test(`decodes ${type} to the bits gguf-py decodes it to, at any alignment, whole or by block`, () => {
    using file = openGguf(join(fixtures("formats"), "quants.gguf"));
    const info = file.tensors.get(type)!;
    assert.equal(info.type, type);
    assert.deepEqual(info.shape, [3, 512]);
    const expected = new Float32Array(1536);
    file.readIntoSync(type === "F32" ? type : `${type}.f32`, new Uint8Array(expected.buffer));
    const source = new Uint8Array(info.byteLength + 1).subarray(1);
    file.readIntoSync(type, source);

    const whole = new Float32Array(1536);
    dequantizeBlocks(type, source, whole);
    assert.deepEqual(new Uint32Array(whole.buffer), new Uint32Array(expected.buffer));

    const { blockSize, blockBytes } = GGML_TYPES[type];
    const byBlock = new Float32Array(1536);
    for (let i = 0; i < 1536 / blockSize; i++)
      dequantizeBlocks(
        type,
        source.subarray(i * blockBytes, (i + 1) * blockBytes),
        byBlock.subarray(i * blockSize, (i + 1) * blockSize),
      );
    assert.deepEqual(new Uint32Array(byBlock.buffer), new Uint32Array(expected.buffer));
  });
}

test("decodes blocks that ggml quantised, and random ones, to the bits of the oracle", () => {
  const folder = join(fixtures("oracle"), "gguf");
  using expectations = openSafetensors(join(folder, "expect.safetensors"));
  let checked = 0;
  for (const stem of ["simple", "k"]) {
    using file = openGguf(join(folder, `${stem}.gguf`));
    for (const [name, info] of file.tensors) {
      const key = `${stem}.${name}`;
      const expected = expectations.tensors.get(key)!;
      assert.deepEqual(info.shape, expected.shape, key);
      const wanted = new Uint8Array(expected.byteLength);
      expectations.readIntoSync(key, wanted);
      const blocks = new Uint8Array(info.byteLength);
      file.readIntoSync(name, blocks);
      const decoded = new Float32Array(wanted.length / 4);
      dequantizeBlocks(info.type, blocks, decoded);
      assert.ok(Buffer.from(decoded.buffer).equals(wanted), key);
      checked++;
    }
  }
  assert.equal(checked, 14);
});

test("an unsupported type, a partial block and a target of another length are refused", () => {
  const decode = (type: GgmlType, bytes: number, elements: number) => () =>
    dequantizeBlocks(type, new Uint8Array(bytes), new Float32Array(elements));
  assertFormatError(
    decode("IQ2_XS", 74, 256),
    /tensor type: found IQ2_XS; expected one of F32, F16, BF16, Q8_0, Q4_0, .*Q6_K/,
  );
  assertFormatError(decode("Q4_K", 143, 256), /Q4_K data: found 143 bytes; expected whole blocks of 144 bytes/);
  assertFormatError(decode("Q4_K", 288, 256), /Q4_K data: found a target of 256 elements; expected 512/);
  decode("Q4_K", 0, 0)();
});
