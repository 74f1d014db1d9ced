import assert from "node:assert/strict";
import { mkdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { FormatError } from "../../formats/errors.ts";
import { fixtures, temporaryFolder } from "../../formats/files.test.support.ts";
import { array, craftGguf, kv, str, tensor, u32 } from "../../formats/gguf.test.support.ts";
import { MemoryPlanError } from "../../graph/types.ts";
import { ConfigError } from "../config.ts";
import {
  changedModel,
  copiedModel,
  familyModel,
  readJson,
  type Tensors,
  testBackend,
} from "./checkpoint.test.support.ts";
import { type LoadModelOptions, loadModel } from "./load.ts";

type ErrorKind = typeof FormatError | typeof ConfigError | typeof MemoryPlanError;

/** Loading must fail with this kind of error and message, and leave nothing allocated. */
async function assertRefused(
  t: TestContext,
  path: string,
  kind: ErrorKind,
  message: RegExp,
  options: Partial<LoadModelOptions> = {},
): Promise<void> {
  const backend = await testBackend(t);
  await assert.rejects(loadModel({ path, backend, ...options }), (error) => {
    assert.ok(error instanceof kind, `${error}`);
    assert.match(error.message, message);
    return true;
  });
  assert.equal(backend.memory().tensors.weight, 0);
}

test("paths that hold no model", async (t) => {
  const folder = temporaryFolder(t);
  await assertRefused(t, join(folder, "none"), FormatError, /none: path: found nothing there; expected a Hugging Face/);
  await assertRefused(t, folder, FormatError, /config\.json: file: found no such file/);
  writeFileSync(join(folder, "adapter_config.json"), "{}");
  await assertRefused(t, folder, FormatError, /found an adapter .* expected its base model's folder/);
  writeFileSync(join(folder, "weights.pt"), "PK");
  await assertRefused(t, join(folder, "weights.pt"), FormatError, /weights\.pt: magic/);
  const file = join(familyModel("llama"), "model.safetensors");
  await assertRefused(t, file, FormatError, /path: found one safetensors file; expected the folder it is in/);
});

test("weights that are missing, pickled or cut short", async (t) => {
  const folder = copiedModel(t, familyModel("llama"));
  truncateSync(join(folder, "model.safetensors"), 5000);
  await assertRefused(t, folder, FormatError, /model\.safetensors: file length: found .* incomplete/);
  rmSync(join(folder, "model.safetensors"));
  await assertRefused(t, folder, FormatError, /found neither/);
  writeFileSync(join(folder, "pytorch_model.bin"), "");
  await assertRefused(t, folder, FormatError, /weights: found pytorch_model\.bin; expected safetensors: pickled/);
  const sharded = copiedModel(t, familyModel("llama_bf16_sharded"));
  const second = join(sharded, "model-00002-of-00002.safetensors");
  truncateSync(second, 3000);
  await assertRefused(t, sharded, FormatError, /model-00002-of-00002\.safetensors: file length/);
  rmSync(second);
  await assertRefused(t, sharded, FormatError, /model-00002-of-00002\.safetensors, which is not in the folder/);
});

test("tensors that do not make up the model", async (t) => {
  const changed = (tensors: (all: Tensors) => void) => changedModel(t, familyModel("llama"), { tensors });
  const missing = await changed((all) => {
    for (const name of [...all.keys()].filter((n) => n.includes("layers.1."))) all.delete(name);
  });
  const list =
    /tensors: found no model\.layers\.1\.self_attn\.q_proj\.weight, .* and 4 more; expected all 21 parameters of a llama model with 2 layers/;
  await assertRefused(t, missing, FormatError, list);
  const shape = await changed((all) => {
    const up = all.get("model.layers.0.mlp.up_proj.weight")!;
    all.set(up.name, { ...up, shape: [...up.shape].reverse() });
  });
  await assertRefused(
    t,
    shape,
    FormatError,
    /"model\.layers\.0\.mlp\.up_proj\.weight" shape: found \[32, 88\]; expected \[88, 32\]/,
  );
  const integer = await changed((all) => {
    const norm = all.get("model.norm.weight")!;
    all.set(norm.name, { ...norm, dtype: "I32" });
  });
  await assertRefused(t, integer, FormatError, /"model\.norm\.weight" type: found I32; expected F32, F16, BF16/);
  const twice = await changed((all) => {
    const norm = all.get("model.norm.weight")!;
    all.set("norm.weight", { ...norm, name: "norm.weight" });
  });
  await assertRefused(t, twice, FormatError, /found the same parameter as tensor/);
  const large = await changed((all) => {
    new DataView(all.get("lm_head.weight")!.data.buffer).setFloat32(8, 70000, true);
  });
  await assertRefused(t, large, FormatError, /"lm_head\.weight": found the value 70000; expected at most 65504/, {
    dtype: "float16",
  });
});

test("configurations that are broken, unknown or enormous", async (t) => {
  const base = familyModel("llama");
  const changed = (fields: Record<string, unknown>) =>
    changedModel(t, base, { config: (config) => ({ ...config, ...fields }) });
  const refusals: [Record<string, unknown>, RegExp][] = [
    [{ model_type: "mamba" }, /model_type "mamba" is not supported; supported are llama, mistral/],
    [{ model_type: undefined }, /model_type is missing/],
    [{ hidden_size: null }, /config\.json: hidden_size: /],
    [{ hidden_size: "32" }, /config\.json: hidden_size: /],
    [{ num_attention_heads: 0 }, /config\.json: num_attention_heads: /],
    [{ num_hidden_layers: 1e9 }, /config\.json: num_hidden_layers: /],
    [{ vocab_size: 2 ** 40 }, /config\.json: vocab_size: /],
    [{ rms_norm_eps: -1 }, /config\.json: rms_norm_eps: /],
    [{ num_key_value_heads: 3 }, /num_attention_heads 4 is not a multiple of num_key_value_heads 3/],
    [{ hidden_act: "relu6" }, /hidden_act "relu6" is not supported/],
    [{ rope_parameters: { rope_type: "yarn", factor: 4 } }, /rope type "yarn" is not supported/],
  ];
  for (const [fields, message] of refusals) await assertRefused(t, await changed(fields), ConfigError, message);
  const folder = copiedModel(t, base);
  const text = JSON.stringify(readJson(folder));
  writeFileSync(join(folder, "config.json"), text.replace('"hidden_size":32', '"hidden_size":NaN'));
  await assertRefused(t, folder, FormatError, /config\.json: the file: found invalid JSON/);
  writeFileSync(join(folder, "config.json"), text.replace('"hidden_size":32', '"hidden_size":1e999'));
  await assertRefused(t, folder, ConfigError, /config\.json: hidden_size: /);
  writeFileSync(join(folder, "config.json"), "[]");
  await assertRefused(t, folder, FormatError, /config\.json: the file: found \[\]; expected a JSON object/);
  rmSync(join(folder, "config.json"));
  mkdirSync(join(folder, "config.json"));
  await assertRefused(t, folder, FormatError, /config\.json: file: found EISDIR/);
});

test("a model too large for the memory there is", async (t) => {
  await assertRefused(t, familyModel("llama"), MemoryPlanError, /its weights need 32\.\d MiB of memory; 1\.0 MiB is/, {
    maxMemory: 2 ** 20,
  });
});

test("options that contradict one another, or the checkpoint", async (t) => {
  const path = familyModel("llama");
  const nf4 = join(fixtures("oracle"), "nf4", "model_f32");
  const refusals: [string, Partial<LoadModelOptions>, RegExp][] = [
    [path, { fullFinetuning: true, loadIn4bit: true }, /fullFinetuning cannot train weights in 4 bits/],
    [path, { fullFinetuning: true, dtype: "bfloat16" }, /dtype must be float32 or left out, not bfloat16/],
    [path, { dtype: "int8" as "float16" }, /dtype: found "int8"; expected float32, bfloat16 or float16/],
    [path, { loadIn4bit: true, quantization: { blockSize: 65 } }, /blockSize: found 65; expected one of 32, 64/],
    [nf4, { fullFinetuning: true }, /fullFinetuning needs the original checkpoint/],
  ];
  for (const [from, options, message] of refusals) await assertRefused(t, from, ConfigError, message, options);
});

test("quantised checkpoints of other kinds", async (t) => {
  const changed = (quantization_config: unknown) =>
    changedModel(t, familyModel("llama"), { config: (config) => ({ ...config, quantization_config }) });
  for (const [quantization, message] of [
    [{ quant_method: "gptq", bits: 4 }, /quantization_config\.quant_method: found "gptq"; expected .*NF4/],
    [{ quant_method: "bitsandbytes", load_in_8bit: true }, /quantization_config\.load_in_8bit: found true/],
    [{ quant_method: "bitsandbytes", load_in_4bit: true }, /bnb_4bit_quant_type: found "fp4"/],
    ["nf4", /quantization_config: found "nf4"; expected an object/],
  ] as const) {
    await assertRefused(t, await changed(quantization), ConfigError, message);
  }
});

test("NF4 weights with parts missing, of another size or with other codes", async (t) => {
  const name = "model.layers.1.mlp.gate_proj.weight";
  const state = `${name}.quant_state.bitsandbytes__nf4`;
  const changed = (tensors: (all: Tensors) => void) =>
    changedModel(t, join(fixtures("oracle"), "nf4", "model_bf16"), { tensors });
  const withState = (change: (state: Record<string, unknown>) => void) =>
    changed((all) => {
      const json = JSON.parse(Buffer.from(all.get(state)!.data).toString());
      change(json);
      const data = new TextEncoder().encode(JSON.stringify(json));
      all.set(state, { name: state, dtype: "U8", shape: [data.length], data });
    });
  const renamed = (all: Tensors, to: string) => {
    all.set(to, { ...all.get(state)!, name: to });
    all.delete(state);
  };
  const refusals: [string, RegExp][] = [
    [await changed((all) => all.delete(`${name}.absmax`)), /gate_proj\.weight\.absmax": found nothing/],
    [await changed((all) => all.delete(`${name}.nested_quant_map`)), /nested_quant_map": found nothing/],
    [await withState((s) => Object.assign(s, { blocksize: 63 })), /blocksize: found 63; expected one of 32, 64/],
    [await withState((s) => Object.assign(s, { blocksize: 128 })), /found 66 bytes; expected 33 bytes/],
    [await withState((s) => Object.assign(s, { shape: [44, 96] })), /shape: found \[44, 96\]; expected \[88, 48\]/],
    [await withState((s) => Object.assign(s, { shape: [2 ** 40, 2 ** 40] })), /shape: found .*fewer than 2\^53/],
    [await withState((s) => Object.assign(s, { shape: [2 ** 20, 48] })), /found 2112 bytes; expected/],
    [await withState((s) => Object.assign(s, { shape: "88x48" })), /shape: found "88x48"; expected an array/],
    [await withState((s) => Object.assign(s, { nested_blocksize: 128 })), /nested_blocksize: found 128; expected 256/],
    [await withState((s) => Object.assign(s, { nested_offset: "0" })), /nested_offset: found "0"; expected a number/],
    [await changed((all) => all.get(state)!.data.fill(0x7b)), /found invalid JSON/],
    [await changed((all) => all.get(`${name}.quant_map`)!.data.fill(0)), /quant_map": found 0 at 0; expected -1/],
    [await changed((all) => renamed(all, state.replace("nf4", "fp4"))), /found a 4-bit weight of type fp4/],
    [await changed((all) => renamed(all, `${name}.SCB`)), /found an 8-bit weight \(LLM\.int8\)/],
  ];
  for (const [path, message] of refusals) await assertRefused(t, path, FormatError, message);
});

const UINT32 = 4;
const STRING = 8;
const FLOAT32 = 6;
const number = (key: string, value: number) => kv(key, UINT32, u32(value));
const float = (key: string, value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return kv(key, FLOAT32, bytes);
};

/** Metadata of a small llama, by key. */
function metadata(): Map<string, Buffer> {
  const numbers = { context_length: 128, embedding_length: 8, block_count: 1, feed_forward_length: 16 };
  const entries: [string, Buffer][] = [
    ["general.architecture", kv("general.architecture", STRING, str("llama"))],
    ...Object.entries({ ...numbers, "attention.head_count": 2 }).map(([key, value]): [string, Buffer] => [
      `llama.${key}`,
      number(`llama.${key}`, value),
    ]),
    ["llama.attention.layer_norm_rms_epsilon", float("llama.attention.layer_norm_rms_epsilon", 1e-5)],
  ];
  return new Map(entries);
}

test("GGUF files that do not describe a model we know", async (t) => {
  const folder = temporaryFolder(t);
  const embedding = tensor("token_embd.weight", [8, 4], 0, 0);
  let count = 0;
  const file = (change: (kvs: Map<string, Buffer>) => void, tensors = [embedding], data = 128) => {
    const kvs = metadata();
    change(kvs);
    const path = join(folder, `${count++}.gguf`);
    writeFileSync(path, craftGguf({ kvs: [...kvs.values()], tensors, data }));
    return path;
  };
  for (const key of metadata().keys()) {
    const message = new RegExp(`metadata "${key.replaceAll(".", "\\.")}": found nothing; expected`);
    await assertRefused(
      t,
      file((kvs) => kvs.delete(key)),
      FormatError,
      message,
    );
  }
  const put = (key: string, entry: Buffer) => (kvs: Map<string, Buffer>) => kvs.set(key, entry);
  const layers = "llama.block_count";
  const text = (key: string, value: string) => put(key, kv(key, STRING, str(value)));
  const refusals: [(kvs: Map<string, Buffer>) => void, RegExp][] = [
    [text("general.architecture", "mamba"), /general\.architecture": found "mamba"; expected one of llama, qwen2/],
    [text("general.type", "adapter"), /general\.type": found "adapter"; expected "model"/],
    [text(layers, "1"), /block_count": found type string; expected a number/],
    [put(layers, kv(layers, 9, array(UINT32, 2, u32(1), u32(2)))), /block_count": found \[1, 2\]; expected one number/],
    [put(layers, float(layers, Number.NaN)), /block_count": found NaN; expected a finite number/],
    [put("split.count", number("split.count", 3)), /split\.count: found one of 3 parts; expected one file/],
    [put("e", number("llama.expert_count", 8)), /expert_count": found a mixture of experts/],
    [put("r", number("llama.rope.dimension_count", 2)), /rope\.dimension_count": found 2; expected 4/],
    [put("r", kv("llama.rope.scaling.type", STRING, str("yarn"))), /rope\.scaling\.type": found "yarn"/],
  ];
  for (const [change, message] of refusals) await assertRefused(t, file(change), FormatError, message);
  await assertRefused(t, file(put(layers, number(layers, 2 ** 32 - 1))), ConfigError, /num_hidden_layers: /);
  await assertRefused(
    t,
    file(() => {}, []),
    FormatError,
    /tensor "token_embd\.weight": found nothing/,
  );
  await assertRefused(
    t,
    file(() => {}),
    FormatError,
    /tensors: found no .*and 5 more/,
  );
  const odd = tensor("blk.0.ssm_a.weight", [8], 0, 128);
  await assertRefused(
    t,
    file(() => {}, [embedding, odd], 160),
    FormatError,
    /ssm_a\.weight": found an unknown name/,
  );
  const factors = tensor("rope_freqs.weight", [2], 0, 128);
  await assertRefused(
    t,
    file(() => {}, [embedding, factors], 160),
    FormatError,
    /tensors: found no|positive numbers/,
  );
  const exotic = tensor("output_norm.weight", [256], 19, 128);
  const unreadable = file(() => {}, [embedding, exotic], 256);
  await assertRefused(t, unreadable, FormatError, /output_norm\.weight" (shape|type): found/);
});
