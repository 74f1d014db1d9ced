// A model of a shape with random weights, made on the card: one layer is filled from here, the others are copies of it.
import { GIB, load, random32 } from "./lib.mjs";

const { parseConfig } = await load("models/family.js");
const { CausalLM } = await load("models/model.js");
const { parameterSpecs } = await load("models/parameters.js");
const { SIGNED_DYNAMIC_MAP } = await load("quant/dynamic-maps.js");

const noise = Uint32Array.from({ length: 2 ** 21 }, random32);
const bytesOf = (x) => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);

/** bf16 or f16 numbers of size about 0.02. */
function halves(dtype) {
  const out = new Uint16Array(2 ** 21);
  const one = new Float32Array(1);
  const bits = new Uint32Array(one.buffer);
  for (let i = 0; i < out.length; i++) {
    one[0] = ((noise[i] / 2 ** 32) * 2 - 1) * 0.035;
    // f16: 5 bits of exponent with bias 15 for 8 with 127; these numbers are all normal in it, or 0.
    const exponent = ((bits[0] >>> 23) & 255) - 112;
    out[i] =
      dtype === "bf16"
        ? bits[0] >>> 16
        : exponent <= 0
          ? 0
          : ((bits[0] >>> 16) & 0x8000) | (exponent << 10) | ((bits[0] >>> 13) & 0x3ff);
  }
  return bytesOf(out);
}

/** Fill a part with a pattern, each copy on the card twice as long as the one before. */
function repeat(device, address, bytes, pattern) {
  let done = Math.min(bytes, pattern.length);
  device.upload(address, pattern.subarray(0, done));
  while (done < bytes) {
    const more = Math.min(done, bytes - done, GIB);
    device.copy(address + done, address, more);
    done += more;
  }
}

function fill(device, tensor, kind, pattern) {
  if (kind === "norm" || kind === "bias") {
    tensor.write(bytesOf(new Float32Array(tensor.shape[0]).fill(kind === "norm" ? 1 : 0)));
  } else if (tensor.dtype === "nf4") {
    for (const part of ["data", "absmax"]) repeat(device, tensor.address(part), tensor.parts.get(part), bytesOf(noise));
    tensor.write(bytesOf(new Float32Array(tensor.parts.get("nested") / 4).fill(0.005)), { part: "nested" });
    tensor.write(bytesOf(Float32Array.from(SIGNED_DYNAMIC_MAP)), { part: "map" });
    tensor.nestedOffset = 0.045;
  } else if (tensor.host) {
    for (let offset = 0; offset < tensor.bytes; offset += pattern.length)
      tensor.write(pattern.subarray(0, Math.min(pattern.length, tensor.bytes - offset)), { offset });
  } else repeat(device, tensor.address(), tensor.bytes, pattern);
}

/**
 * @param storage nf4 or the backend's type, for linear layers
 * @param offloadEmbedding the table of input embeddings in host memory
 */
export function randomModel(backend, hfConfig, storage = "nf4", offloadEmbedding = false) {
  const { decoder } = parseConfig(hfConfig, "bench");
  const { device, computeDtype } = backend;
  const pattern = halves(computeDtype);
  const first = new Map();
  const parameters = new Map(
    parameterSpecs(decoder).map(({ name, shape, kind }) => {
      const vector = kind === "norm" || kind === "bias";
      const dtype = vector ? "f32" : kind === "linear" ? storage : computeDtype;
      const host = offloadEmbedding && kind === "embedding";
      const tensor = backend.createTensor(name, dtype, shape, { role: "weight", doubleQuant: true, host });
      const like = name.replace(/layers\.\d+/, "layers.0");
      const source = first.get(like);
      if (source) {
        for (const [part, bytes] of tensor.parts) device.copy(tensor.address(part), source.address(part), bytes);
        tensor.nestedOffset = source.nestedOffset;
      } else {
        fill(device, tensor, kind, pattern);
        first.set(like, tensor);
      }
      return [name, tensor];
    }),
  );
  device.synchronize();
  return new CausalLM({ backend, config: decoder, hfConfig, parameters, nameOrPath: "random" });
}
