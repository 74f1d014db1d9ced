import assert from "node:assert/strict";
import { test } from "node:test";
import { FormatError } from "../formats/errors.ts";
import { oracleFloats, oracleTensors } from "../testing/oracle.ts";
import { pythonFloat } from "../util/python-json.ts";
import { dequantizeNf4Reference } from "./nf4.ts";
import { absmaxOf, isQuantized, type NamedTensor, nf4TensorNames, readNf4Weight, writeNf4Weight } from "./nf4-state.ts";

const model = oracleTensors("nf4", "model_f32", "model.safetensors");
const expected = oracleTensors("nf4", "expect_f32.safetensors");
const tensors = oracleTensors("nf4", "tensors.safetensors");
const NAME = "model.layers.0.mlp.down_proj.weight";

/** The parts of one weight, to be spoiled. */
function parts(): Map<string, NamedTensor> {
  return new Map([...model].filter(([key]) => key === NAME || key.startsWith(`${NAME}.`)));
}

function withState(change: (json: Record<string, unknown>) => void): Map<string, NamedTensor> {
  const all = parts();
  const key = `${NAME}.quant_state.bitsandbytes__nf4`;
  const json = JSON.parse(new TextDecoder().decode(all.get(key)!.data));
  change(json);
  const data = new TextEncoder().encode(JSON.stringify(json));
  return all.set(key, { dtype: "U8", shape: [data.length], data });
}

test("weights of a model that transformers saved decode to what bitsandbytes decodes", () => {
  const names = [...expected.keys()].filter((key) => key.startsWith("decoded."));
  assert.ok(names.length >= 3);
  for (const key of names) {
    const name = key.slice("decoded.".length);
    assert.ok(isQuantized(name, model));
    const { data, state } = readNf4Weight(name, model);
    const want = oracleFloats(expected, key);
    assert.deepEqual(state.shape, expected.get(key)!.shape);
    assert.equal(state.dtype, "float32");
    assert.deepEqual(dequantizeNf4Reference({ data, absmax: absmaxOf(state) }, want.length), want, name);
  }
  assert.equal(isQuantized("model.embed_tokens.weight", model), false);
});

test("writing a weight that was read gives the same tensors, byte for byte", () => {
  for (const [source, nested] of [
    ["plain", false],
    ["nested", true],
  ] as const) {
    for (const input of ["f32", "f32_odd", "f32_scales", "f32_subnormal", "bf16_many_blocks", "f16"]) {
      const name = `${input}.${source}.weight`;
      const written = writeNf4Weight(name, readNf4Weight(name, tensors));
      assert.deepEqual([...written.keys()].sort(), nf4TensorNames(name, nested).sort());
      for (const [key, tensor] of written) {
        const { dtype, shape, data } = tensors.get(key)!;
        assert.deepEqual(
          { dtype: tensor.dtype, shape: tensor.shape, data: new Uint8Array(tensor.data) },
          { dtype, shape, data },
          key,
        );
      }
    }
  }
});

test("a broken state is a FormatError that names the tensor and what would work", () => {
  const refuse = (broken: ReadonlyMap<string, NamedTensor>, message: RegExp) =>
    assert.throws(
      () => readNf4Weight(NAME, broken, "m.safetensors"),
      (error) => error instanceof FormatError && message.test(error.message),
      String(message),
    );
  const without = (suffix: string) => {
    const all = parts();
    all.delete(NAME + suffix);
    return all;
  };
  const cut = (suffix: string) => {
    const all = parts();
    const tensor = all.get(NAME + suffix)!;
    return all.set(NAME + suffix, { ...tensor, data: tensor.data.subarray(0, tensor.data.length - 4) });
  };
  for (const suffix of [
    "",
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".quant_state.bitsandbytes__nf4",
  ]) {
    refuse(without(suffix), /m\.safetensors: tensor "model\.layers.*no such tensor/);
    refuse(cut(suffix), /m\.safetensors: tensor "model\.layers/);
  }
  refuse(
    withState((json) => Object.assign(json, { quant_type: "fp4" })),
    /quant_type: found "fp4"; expected "nf4"/,
  );
  refuse(
    withState((json) => Object.assign(json, { blocksize: 48 })),
    /blocksize: found 48; expected one of 32, 64/,
  );
  refuse(
    withState((json) => Object.assign(json, { blocksize: 0 })),
    /blocksize: found 0/,
  );
  refuse(
    withState((json) => Object.assign(json, { dtype: "int8" })),
    /dtype: found "int8"/,
  );
  refuse(
    withState((json) => Object.assign(json, { shape: [48, -88] })),
    /shape: found \[48, -88\]/,
  );
  refuse(
    withState((json) => Object.assign(json, { shape: [2 ** 40, 2 ** 40] })),
    /shape/,
  );
  refuse(
    withState((json) => Object.assign(json, { shape: [48, 90] })),
    /found 2112 bytes; expected 2160 bytes/,
  );
  refuse(
    withState((json) => Object.assign(json, { nested_blocksize: 128 })),
    /nested_blocksize: found 128; expected 256/,
  );
  refuse(
    withState((json) => Object.assign(json, { nested_offset: null })),
    /nested_offset: found null/,
  );
  const map = parts();
  map.set(`${NAME}.quant_map`, { dtype: "F32", shape: [16], data: new Uint8Array(64) });
  refuse(map, /quant_map.*found 0 at 0; expected the NF4 code, -1 there/);
  const fp4 = parts().set(`${NAME}.quant_state.bitsandbytes__fp4`, { dtype: "U8", shape: [0], data: new Uint8Array() });
  refuse(fp4, /found an FP4 weight; expected NF4/);
});

test("numbers are written as Python writes them", () => {
  for (const [x, text] of [
    [0, "0.0"],
    [-0, "-0.0"],
    [1, "1.0"],
    [-2.5, "-2.5"],
    [0.0001, "0.0001"],
    [0.00001, "1e-05"],
    [1.5e-7, "1.5e-07"],
    [123456789012345680, "1.2345678901234568e+17"],
    [1e15, "1000000000000000.0"],
    [1e16, "1e+16"],
    [7.376424362631741e37, "7.376424362631741e+37"],
    [4.991967712690385e-38, "4.991967712690385e-38"],
    [1e-100, "1e-100"],
    [0.1287028044462204, "0.1287028044462204"],
  ] as const)
    assert.equal(pythonFloat(x), text);
});
