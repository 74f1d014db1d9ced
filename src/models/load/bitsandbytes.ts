import type { PartName } from "../../backends/backend.ts";
import { FormatError, show } from "../../formats/errors.ts";
import type { SafetensorsInfo, SafetensorsSource } from "../../formats/safetensors.ts";
import { isJsonObject } from "../../formats/strict-json.ts";
import { numel } from "../../graph/types.ts";
import { NF4_CODE } from "../../quant/nf4.ts";
import { type Nf4Header, parseNf4State } from "../../quant/nf4-state.ts";
import { ConfigError } from "../config.ts";
import type { Nf4Weight } from "./source.ts";

const STATE = /^(.+)\.quant_state\.bitsandbytes__(\w+)$/;
const MAX_STATE_BYTES = 65536;

/** Throws ConfigError when config.json says the weights are quantised in a way other than bitsandbytes' NF4. */
export function checkQuantizationConfig(config: Readonly<Record<string, unknown>>, file: string): void {
  const given = config.quantization_config;
  if (given === undefined || given === null) return;
  const fail = (field: string, value: unknown) => {
    throw new ConfigError(
      `${file}: quantization_config.${field}: found ${show(value)}; expected weights in bitsandbytes NF4, or unquantised: load the original checkpoint with loadIn4bit`,
    );
  };
  if (!isJsonObject(given))
    throw new ConfigError(`${file}: quantization_config: found ${show(given)}; expected an object`);
  const { quant_method, load_in_8bit, load_in_4bit, bnb_4bit_quant_type } = given;
  if (quant_method !== undefined && quant_method !== "bitsandbytes") fail("quant_method", quant_method);
  if (load_in_8bit === true) fail("load_in_8bit", true);
  // Left out, the type is fp4: bitsandbytes' own default.
  if (load_in_4bit === true && bnb_4bit_quant_type !== "nf4") fail("bnb_4bit_quant_type", bnb_4bit_quant_type ?? "fp4");
}

/** The NF4 weights among a checkpoint's tensors, and the names of all tensors they are made of. */
export function nf4Weights(source: SafetensorsSource): { weights: Map<string, Nf4Weight>; used: Set<string> } {
  const weights = new Map<string, Nf4Weight>();
  const used = new Set<string>();
  for (const name of source.tensors.keys()) {
    if (name.endsWith(".SCB")) throw unsupported(source, name, "an 8-bit weight (LLM.int8)");
    const [, weight, type] = STATE.exec(name) ?? [];
    if (weight === undefined) continue;
    if (type !== "nf4") throw unsupported(source, name, `a 4-bit weight of type ${type}`);
    const reader = new Nf4Reader(source, weight, name);
    weights.set(weight, reader.read());
    for (const tensor of reader.used) used.add(tensor);
  }
  return { weights, used };
}

function unsupported(source: SafetensorsSource, name: string, found: string): FormatError {
  const expected = "bitsandbytes NF4, or unquantised weights: load the original checkpoint with loadIn4bit";
  return new FormatError({ file: source.path, field: `tensor ${show(name)}`, found, expected });
}

/** Reads one weight's statistics: `weight`, `weight.absmax` and the rest, as QuantState.as_dict(packed=True) has them. */
class Nf4Reader {
  readonly used: string[] = [];
  private readonly source: SafetensorsSource;
  private readonly weight: string;
  private readonly stateName: string;

  constructor(source: SafetensorsSource, weight: string, stateName: string) {
    this.source = source;
    this.weight = weight;
    this.stateName = stateName;
  }

  /** Sizes of all parts are checked; of their contents only the state and the 16 codes are read. */
  read(): Nf4Weight {
    const { shape, blockSize, nested } = this.state();
    const blocks = Math.ceil(numel(shape) / blockSize);
    this.checkCode();
    const parts = new Map<PartName, ReturnType<Nf4Reader["part"]>>();
    parts.set("data", this.part("", Math.ceil(numel(shape) / 2)));
    parts.set("absmax", nested ? this.part(".absmax", blocks, "U8") : this.part(".absmax", 4 * blocks, "F32"));
    if (nested) {
      parts.set("nested", this.part(".nested_absmax", 4 * Math.ceil(blocks / nested.blockSize), "F32"));
      parts.set("map", this.part(".nested_quant_map", 1024, "F32"));
    }
    const fileBytes = this.used.reduce((sum, name) => sum + this.source.tensors.get(name)!.byteLength, 0);
    const quantization = { blockSize, doubleQuant: nested !== null, nestedOffset: nested?.offset ?? 0 };
    return { kind: "nf4", name: this.weight, shape, ...quantization, fileBytes, parts };
  }

  private state(): Nf4Header {
    const info = this.tensor(this.stateName);
    if (info.byteLength > MAX_STATE_BYTES) {
      this.fail(this.stateName, `${info.byteLength} bytes`, `at most ${MAX_STATE_BYTES} bytes of JSON`);
    }
    const bytes = new Uint8Array(info.byteLength);
    this.source.readIntoSync(this.stateName, bytes);
    return parseNf4State(bytes, this.source.path, `tensor ${show(this.stateName)}`);
  }

  /** The 16 values must be NormalFloat-4's, the only ones that kernels decode with. */
  private checkCode(): void {
    const code = new Float32Array(16);
    this.part(".quant_map", 64, "F32").read(new Uint8Array(code.buffer), 0);
    const wrong = code.findIndex((value, i) => !(Math.abs(value - NF4_CODE[i]!) <= 1e-6));
    if (wrong >= 0) {
      this.fail(`${this.weight}.quant_map`, `${code[wrong]} at ${wrong}`, `${NF4_CODE[wrong]}, as in NF4`);
    }
  }

  private part(suffix: string, bytes: number, dtype?: string) {
    const name = this.weight + suffix;
    const info = this.tensor(name);
    if (dtype && info.dtype !== dtype) this.fail(name, `type ${info.dtype}`, `type ${dtype}`);
    if (info.byteLength !== bytes) this.fail(name, `${info.byteLength} bytes`, `${bytes} bytes, by ${this.stateName}`);
    const read = (target: Uint8Array, offset: number) =>
      this.source.readIntoSync(name, target, offset, target.byteLength);
    return { bytes, read };
  }

  private tensor(name: string): SafetensorsInfo {
    const info = this.source.tensors.get(name);
    if (!info) return this.fail(name, "nothing", `a tensor, since there is ${this.stateName}`);
    this.used.push(name);
    return info;
  }

  private fail(name: string, found: string, expected: string): never {
    throw new FormatError({ file: this.source.path, field: `tensor ${show(name)}`, found, expected });
  }
}
