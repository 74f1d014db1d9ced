import { readFileSync } from "node:fs";
import type { FloatDType } from "../../graph/types.ts";
import type { Driver, Handle } from "./driver.ts";
import { compileCached, type Nvrtc } from "./nvrtc.ts";
import { refusedPtx, type Target } from "./target.ts";

/** An argument of a kernel: p an address, i int, l 64-bit int, f float. */
export type KernelArgument = readonly ["p" | "i" | "l" | "f", number];
export const pointer = (address: number): KernelArgument => ["p", address];
export const int = (value: number | boolean): KernelArgument => ["i", Number(value)];
export const long = (value: number): KernelArgument => ["l", value];
export const float = (value: number): KernelArgument => ["f", value];

/** Names that a kernel file is compiled with, e.g. { T: "bf16" }: one module for each set. */
export type Defines = Readonly<Record<string, string | number>>;

export const cType = (dtype: FloatDType): string => (dtype === "f32" ? "float" : dtype);

const MAX_DYNAMIC_SHARED = 8;
/** More than this much dynamic shared memory has to be asked for. */
const DEFAULT_SHARED = 48 * 1024;

const sources = new Map<string, string>();
function source(file: string): string {
  let text = sources.get(file);
  if (text === undefined) {
    text = readFileSync(new URL(`./kernels/${file}`, import.meta.url), "utf8");
    sources.set(file, text);
  }
  return text;
}

/** The whole source of a module: what all kernels share, the names, the file with what it includes (NVRTC has no files). */
export function moduleSource(file: string, defines: Defines): string {
  const names = Object.entries(defines).map(([name, value]) => `#define ${name} ${value}\n`);
  const own = source(`${file}.cu`).replace(/^#include "(.+)"$/gm, (_, included: string) => source(included));
  return `${source("common.cuh")}\n${names.join("")}${own}`;
}

/** Compiled kernels of one device, made when first asked for. */
export class Kernels {
  private readonly driver: Driver;
  private readonly nvrtc: Nvrtc;
  private readonly target: Target;
  private readonly modules = new Map<string, Handle>();
  private readonly functions = new Map<string, Handle>();

  constructor(driver: Driver, nvrtc: Nvrtc, target: Target) {
    this.driver = driver;
    this.nvrtc = nvrtc;
    this.target = target;
  }

  /** Throws CudaUnavailableError where the driver does not take PTX. */
  function(file: string, defines: Defines, name: string, sharedBytes = 0): Handle {
    const moduleKey = `${file}|${JSON.stringify(defines)}`;
    const key = `${moduleKey}|${name}|${sharedBytes}`;
    let found = this.functions.get(key);
    if (found === undefined) {
      found = this.driver.create("cuModuleGetFunction", this.module(file, defines, moduleKey), name);
      if (sharedBytes > DEFAULT_SHARED) {
        this.driver.call("cuFuncSetAttribute", found, MAX_DYNAMIC_SHARED, sharedBytes);
      }
      this.functions.set(key, found);
    }
    return found;
  }

  dispose(): void {
    for (const module of this.modules.values()) this.driver.try("cuModuleUnload", module);
    this.modules.clear();
    this.functions.clear();
  }

  private module(file: string, defines: Defines, key: string): Handle {
    let module = this.modules.get(key);
    if (module === undefined) {
      const { driver, nvrtc, target } = this;
      const code = compileCached(nvrtc, moduleSource(file, defines), `${file}.cu`, target, []);
      const cell = new BigUint64Array(1);
      const status = driver.try("cuModuleLoadData", cell, code);
      if (status !== 0) {
        const failure = driver.failure(`${file}.cu for ${target}`, status);
        throw refusedPtx(status, target, nvrtc.version, driver.version) ?? failure;
      }
      module = cell[0]!;
      this.modules.set(key, module);
    }
    return module;
  }
}

const SIZES = { p: 8, i: 4, l: 8, f: 4 } as const;

/** Arguments as the kernel's parameter block: each aligned to its size. */
export function packArguments(args: readonly KernelArgument[]): Uint8Array {
  let bytes = 0;
  for (const [kind] of args) bytes = Math.ceil(bytes / SIZES[kind]) * SIZES[kind] + SIZES[kind];
  const view = new DataView(new ArrayBuffer(bytes));
  let at = 0;
  for (const [kind, value] of args) {
    at = Math.ceil(at / SIZES[kind]) * SIZES[kind];
    if (kind === "p") view.setBigUint64(at, BigInt(value), true);
    else if (kind === "l") view.setBigInt64(at, BigInt(value), true);
    else if (kind === "i") view.setInt32(at, value, true);
    else view.setFloat32(at, value, true);
    at += SIZES[kind];
  }
  return new Uint8Array(view.buffer);
}
