import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { CudaError } from "./errors.ts";
import { loadLibrary, NVRTC } from "./library.ts";

type Call = (...args: (number | bigint | string | ArrayBufferView | readonly string[] | null)[]) => number;

/** CUDA's run-time compiler. */
export class Nvrtc {
  readonly path: string;
  /** [major, minor] */
  readonly version: readonly [number, number];
  private readonly calls: Record<"create" | "compile" | "destroy" | "logSize" | "log" | "size" | "get", Call>;

  constructor() {
    const { handle, path } = loadLibrary(NVRTC);
    this.path = path;
    const bind = (signature: string): Call => handle.func(signature) as unknown as Call;
    this.calls = {
      create: bind("int nvrtcCreateProgram(void*, const char*, const char*, int, void*, void*)"),
      compile: bind("int nvrtcCompileProgram(uint64_t, int, const char**)"),
      destroy: bind("int nvrtcDestroyProgram(void*)"),
      logSize: bind("int nvrtcGetProgramLogSize(uint64_t, void*)"),
      log: bind("int nvrtcGetProgramLog(uint64_t, void*)"),
      size: bind("int nvrtcGetCUBINSize(uint64_t, void*)"),
      get: bind("int nvrtcGetCUBIN(uint64_t, void*)"),
    };
    const [major, minor] = [new Int32Array(1), new Int32Array(1)];
    check("nvrtcVersion", bind("int nvrtcVersion(void*, void*)")(major, minor));
    this.version = [major[0]!, minor[0]!];
  }

  /** Machine code for sm_`arch`. Throws a CudaError with the compiler's log. */
  compile(source: string, name: string, arch: number, options: readonly string[]): Uint8Array {
    const program = new BigUint64Array(1);
    check("nvrtcCreateProgram", this.calls.create(program, source, name, 0, null, null));
    const id = program[0]!;
    try {
      const all = [`--gpu-architecture=sm_${arch}`, "--std=c++17", ...options];
      const size = new BigUint64Array(1);
      if (this.calls.compile(id, all.length, all) !== 0) {
        this.calls.logSize(id, size);
        const log = new Uint8Array(Number(size[0]));
        this.calls.log(id, log);
        throw new CudaError(`${name} does not compile for sm_${arch}:\n${Buffer.from(log).toString("utf8")}`);
      }
      check("nvrtcGetCUBINSize", this.calls.size(id, size));
      const code = new Uint8Array(Number(size[0]));
      check("nvrtcGetCUBIN", this.calls.get(id, code));
      return code;
    } finally {
      this.calls.destroy(program);
    }
  }
}

function check(what: string, status: number): void {
  if (status !== 0) throw new CudaError(`${what}: NVRTC error ${status}`, status);
}

/** Where compiled kernels are kept: UNSLOTH_CACHE, XDG_CACHE_HOME or ~/.cache. */
export function kernelCacheFolder(): string {
  const { UNSLOTH_CACHE, XDG_CACHE_HOME } = process.env;
  return join(UNSLOTH_CACHE ?? join(XDG_CACHE_HOME ?? join(homedir(), ".cache"), "unsloth"), "cuda");
}

/**
 * Compiled code by source, options, architecture and compiler version, kept on disk with its own checksum: a file that
 * does not match it is made again. A folder that cannot be written to costs the compile time and nothing else.
 */
export function compileCached(
  nvrtc: Pick<Nvrtc, "version" | "compile">,
  source: string,
  name: string,
  arch: number,
  options: readonly string[],
  folder = kernelCacheFolder(),
): Uint8Array {
  const key = sha256(JSON.stringify([source, options, arch, nvrtc.version]));
  const file = join(folder, `${name.replace(/\W+/g, "_")}-sm${arch}-${key.slice(0, 32)}.cubin`);
  const kept = readChecked(file);
  if (kept) return kept;
  const code = nvrtc.compile(source, name, arch, options);
  try {
    mkdirSync(folder, { recursive: true });
    const temporary = `${file}.${process.pid}`;
    writeFileSync(temporary, Buffer.concat([Buffer.from(sha256(code), "hex"), code]));
    renameSync(temporary, file);
  } catch {
    // Only a cache.
  }
  return code;
}

const CHECKSUM_BYTES = 32;

/** Code of a cache file; null when there is none or its checksum is another. */
export function readChecked(file: string): Uint8Array | null {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch {
    return null;
  }
  const code = bytes.subarray(CHECKSUM_BYTES);
  return bytes.length > CHECKSUM_BYTES && sha256(code) === bytes.subarray(0, CHECKSUM_BYTES).toString("hex")
    ? new Uint8Array(code)
    : null;
}

const sha256 = (data: string | Uint8Array): string => createHash("sha256").update(data).digest("hex");
