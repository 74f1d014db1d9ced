import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertFormatError, fixtures, temporaryFolder } from "./files.test.support.ts";
import { openSafetensorsFolder, type TensorToWrite, writeSafetensors, writeSafetensorsFolder } from "./safetensors.ts";

const INDEX = "model.safetensors.index.json";
const SHARDS = [1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`);
const u8 = (name: string, size: number, value = 0): TensorToWrite => ({
  name,
  dtype: "U8",
  shape: [size],
  data: new Uint8Array(size).fill(value),
});
const five = [u8("b", 4, 1), u8("a", 6, 2), u8("big", 11, 3), u8("c", 1, 4), u8("d", 10, 5)];

function read(folder: string): Record<string, number[]> {
  using model = openSafetensorsFolder(folder);
  return Object.fromEntries(
    [...model.tensors].map(([name, { byteLength }]) => {
      const target = new Uint8Array(byteLength);
      model.readIntoSync(name, target);
      return [name, [...target]];
    }),
  );
}

const contents = (tensors: TensorToWrite[]) =>
  Object.fromEntries(tensors.map(({ name, data }) => [name, [...(data as Uint8Array)]]));

test("a small model is one file, without an index", async (t) => {
  const folder = temporaryFolder(t);
  assert.deepEqual(await writeSafetensorsFolder(folder, five), ["model.safetensors"]);
  assert.deepEqual(readdirSync(folder), ["model.safetensors"]);
  assert.deepEqual(read(folder), contents(five));
});

test("shards are filled in the given order; a tensor over the limit has one of its own", async (t) => {
  const folder = temporaryFolder(t);
  const metadata = { format: "pt" };
  const files = await writeSafetensorsFolder(folder, five, { maxShardBytes: 10, metadata });
  assert.deepEqual(files, [...[1, 2, 3, 4].map((i) => `model-0000${i}-of-00004.safetensors`), INDEX]);
  const index = JSON.parse(readFileSync(join(folder, INDEX), "utf8"));
  // huggingface_hub puts "big" into a shard at once, before the one being filled.
  assert.deepEqual(index, {
    metadata: { total_size: 32 },
    weight_map: {
      a: "model-00002-of-00004.safetensors",
      b: "model-00002-of-00004.safetensors",
      big: "model-00001-of-00004.safetensors",
      c: "model-00003-of-00004.safetensors",
      d: "model-00004-of-00004.safetensors",
    },
  });
  assert.deepEqual(read(folder), contents(five));
  const model = openSafetensorsFolder(folder);
  assert.deepEqual([...model.metadata], [["format", "pt"]]);
  const part = new Uint8Array(2);
  await model.readInto("d", part, 8);
  assert.deepEqual([...part], [5, 5]);
  await assert.rejects(model.readInto("e", part), /tensor "e": found no such tensor; expected one of its 5/);
  model.close();
  await assert.rejects(model.readInto("d", part, 8), /found a closed file/);
});

test("the index is what Python's json writes", async (t) => {
  const folder = temporaryFolder(t);
  const names = ["b", "a.10", "a.9", "é", "\uff5e", "\u{1f600}", "10", "9"];
  const tensors = names.map((name, i) => u8(name, i < 6 ? 4 : 6));
  await writeSafetensorsFolder(folder, tensors, { maxShardBytes: 12, indexMetadata: { total_parameters: 36 } });
  assert.equal(
    readFileSync(join(folder, INDEX), "utf8"),
    readFileSync(join(fixtures("formats"), "index.json"), "utf8"),
  );
});

test("writes the shards and the index that transformers wrote", async (t) => {
  const original = join(fixtures("oracle"), "families", "llama_bf16_sharded", "model");
  const folder = temporaryFolder(t);
  using model = openSafetensorsFolder(original);
  const block = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
  ].concat(["mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]);
  const layers = [0, 1].flatMap((i) => block.map((name) => `model.layers.${i}.${name}.weight`));
  const order = ["model.embed_tokens.weight", ...layers, "model.norm.weight", "lm_head.weight"];
  assert.deepEqual([...order].sort(), [...model.tensors.keys()].sort());
  const tensors = order.map((name) => {
    const { dtype, shape, byteLength } = model.tensors.get(name)!;
    const data = new Uint8Array(byteLength);
    model.readIntoSync(name, data);
    return { name, dtype, shape, data };
  });
  const files = await writeSafetensorsFolder(folder, tensors, {
    maxShardBytes: 36_000,
    metadata: Object.fromEntries(model.metadata),
    indexMetadata: { total_parameters: 29408 },
  });
  assert.equal(files.length, 3);
  for (const file of files)
    assert.ok(readFileSync(join(folder, file)).equals(readFileSync(join(original, file))), file);
});

test("the files of the model that was there go", async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, "config.json"), "{}");
  await writeSafetensorsFolder(folder, five, { maxShardBytes: 12 });
  assert.deepEqual(readdirSync(folder).sort(), ["config.json", ...SHARDS, INDEX]);
  await writeSafetensorsFolder(folder, [u8("x", 3, 9)]);
  assert.deepEqual(readdirSync(folder).sort(), ["config.json", "model.safetensors"]);
  await writeSafetensorsFolder(folder, five, { maxShardBytes: 12 });
  assert.deepEqual(read(folder), contents(five));
  assert.ok(!existsSync(join(folder, "model.safetensors")));
});

test("a failure between shards leaves no index over old and new ones", async (t) => {
  const folder = temporaryFolder(t);
  await writeSafetensorsFolder(folder, five, { maxShardBytes: 12 });
  const failing = five.map((tensor, i) => (i === 2 ? { ...tensor, data: new Uint8Array(1) } : { ...tensor }));
  await assert.rejects(
    writeSafetensorsFolder(folder, failing, { maxShardBytes: 12 }),
    /tensor "big" data: found 1 bytes/,
  );
  assertFormatError(() => openSafetensorsFolder(folder), /found neither of the two files/);
});

test("a failure where no file name is shared leaves the old model", async (t) => {
  const folder = temporaryFolder(t);
  await writeSafetensorsFolder(folder, five, { maxShardBytes: 12 });
  const failing = [u8("x", 3), { ...u8("y", 3), data: new Uint8Array(1) }];
  await assert.rejects(writeSafetensorsFolder(folder, failing, { maxShardBytes: 4 }), /tensor "y" data/);
  assert.deepEqual(read(folder), contents(five));
});

test("a name in two shards and a limit of nothing are refused", async (t) => {
  const folder = temporaryFolder(t);
  const twice = [u8("a", 4), u8("a", 4)];
  await assert.rejects(writeSafetensorsFolder(folder, twice, { maxShardBytes: 4 }), /tensor "a": found the name twice/);
  await assert.rejects(writeSafetensorsFolder(folder, [], { maxShardBytes: Number.NaN }), /maxShardBytes: found NaN/);
});

test("malformed indexes and missing shards are named", async (t) => {
  const folder = temporaryFolder(t);
  const opens = (index: unknown, message: RegExp) => {
    writeFileSync(join(folder, INDEX), typeof index === "string" ? index : JSON.stringify(index));
    assertFormatError(() => openSafetensorsFolder(folder), message);
  };
  assertFormatError(
    () => openSafetensorsFolder(folder),
    /found neither of the two files; expected model\.safetensors or/,
  );
  assertFormatError(() => openSafetensorsFolder(join(folder, "none")), /found no such folder/);
  await writeSafetensors(join(folder, "s.safetensors"), [u8("a", 4)]);
  const path = join(folder, "s.safetensors");

  opens("{", /index: found invalid JSON/);
  opens({}, /weight_map: found nothing; expected an object/);
  opens({ weight_map: ["a"] }, /weight_map: found \["a"\]/);
  opens('{"weight_map":{"a":"s.safetensors","a":"s.safetensors"}}', /found the key "a" twice/);
  opens({ weight_map: { a: "t.safetensors" } }, /weight_map "a": found t\.safetensors, which is not in the folder/);
  opens(
    { weight_map: { a: "s.safetensors", b: "s.safetensors" } },
    /weight_map "b": found s\.safetensors, which has no/,
  );
  for (const bad of [
    "../s.safetensors",
    "/s.safetensors",
    "x\\s.safetensors",
    "C:s.safetensors",
    path,
    "s.bin",
    3,
    "s\0.safetensors",
  ])
    opens({ weight_map: { a: bad } }, /weight_map "a": found .*; expected a plain file name ending in \.safetensors/);

  writeFileSync(path, readFileSync(path).subarray(0, -1));
  opens({ weight_map: { a: "s.safetensors" } }, /s\.safetensors: file length: found 3 bytes/);
  rmSync(join(folder, INDEX));
});
