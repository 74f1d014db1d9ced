import { readFileSync } from "node:fs";
import type { FloatDType } from "../../graph/types.ts";
import type { Driver, Handle } from "./driver.ts";
import { compileCached, compileCachedLater, type Nvrtc } from "./nvrtc.ts";
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
  /** Modules that other threads compile. */
  private readonly underway = new Map<string, Promise<void>>();
  private disposed = false;

  constructor(driver: Driver, nvrtc: Nvrtc, target: Target) {
    this.driver = driver;
    this.nvrtc = nvrtc;
    this.target = target;
  }

  /** Throws CudaUnavailableError where the driver does not take PTX. */
  function(file: string, defines: Defines, name: string, sharedBytes = 0): Handle {
    const module = moduleKey(file, defines);
    const key = `${module}|${name}|${sharedBytes}`;
    let found = this.functions.get(key);
    if (found === undefined) {
      found = this.driver.create("cuModuleGetFunction", this.module(file, defines, module), name);
      if (sharedBytes > DEFAULT_SHARED) {
        this.driver.call("cuFuncSetAttribute", found, MAX_DYNAMIC_SHARED, sharedBytes);
      }
      this.functions.set(key, found);
    }
    return found;
  }

  /** The same when it is called; a module that has to be compiled first is on its way until then (`ready`). */
  later(file: string, defines: Defines, name: string, sharedBytes = 0): () => Handle {
    const key = moduleKey(file, defines);
    if (!this.modules.has(key) && !this.underway.has(key)) {
      const code = compileCachedLater(this.nvrtc, moduleSource(file, defines), `${file}.cu`, this.target, []);
      if (code instanceof Uint8Array) this.load(key, file, code);
      else {
        const loaded = code.then((made) => {
          if (!this.disposed && !this.modules.has(key)) this.load(key, file, made);
        });
        this.underway.set(key, loaded);
        // Told by `ready`, or by compiling it once more.
        loaded.catch(() => undefined).finally(() => this.underway.delete(key));
      }
    }
    return () => this.function(file, defines, name, sharedBytes);
  }

  /** Until all modules are there that `later` put on their way; null when none is. */
  ready(): Promise<unknown> | null {
    return this.underway.size > 0 ? Promise.all(this.underway.values()) : null;
  }

  dispose(): void {
    this.disposed = true;
    for (const module of this.modules.values()) this.driver.try("cuModuleUnload", module);
    this.modules.clear();
    this.functions.clear();
  }

  private module(file: string, defines: Defines, key: string): Handle {
    const known = this.modules.get(key);
    if (known !== undefined) return known;
    return this.load(key, file, compileCached(this.nvrtc, moduleSource(file, defines), `${file}.cu`, this.target, []));
  }

  private load(key: string, file: string, code: Uint8Array): Handle {
    const { driver, nvrtc, target } = this;
    const cell = new BigUint64Array(1);
    const status = driver.try("cuModuleLoadData", cell, code);
    if (status !== 0) {
      const failure = driver.failure(`${file}.cu for ${target}`, status);
      throw refusedPtx(status, target, nvrtc.version, driver.version) ?? failure;
    }
    this.modules.set(key, cell[0]!);
    return cell[0]!;
  }
}

const moduleKey = (file: string, defines: Defines): string => `${file}|${JSON.stringify(defines)}`;

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
