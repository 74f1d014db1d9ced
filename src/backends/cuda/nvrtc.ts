import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { CudaError } from "./errors.ts";
import { loadLibrary, NVRTC } from "./library.ts";
import { isPtx, type Target } from "./target.ts";

type Argument = number | bigint | string | ArrayBufferView | readonly string[] | null;
type Call = (...args: Argument[]) => number;
type Later = (
  program: bigint,
  count: number,
  options: readonly string[],
  done: (error: unknown, status: number) => void,
) => void;

/** CUDA's run-time compiler. */
export class Nvrtc {
  readonly path: string;
  /** [major, minor] */
  readonly version: readonly [number, number];
  /** Compute capabilities it compiles for, 90 for 9.0; null: it does not say (before 11.2). */
  readonly supported: readonly number[] | null;
  private readonly calls: Record<"create" | "compile" | "destroy" | "logSize" | "log", Call>;
  private readonly results: Record<"PTX" | "CUBIN", { size: Call; get: Call }>;
  private readonly compileAside: Later;

  constructor() {
    const { handle, path } = loadLibrary(NVRTC);
    this.path = path;
    const bind = (signature: string): Call => handle.func(signature) as unknown as Call;
    const compile = handle.func("int nvrtcCompileProgram(uint64_t, int, const char**)");
    this.compileAside = compile.async as unknown as Later;
    this.calls = {
      create: bind("int nvrtcCreateProgram(void*, const char*, const char*, int, void*, void*)"),
      compile: compile as unknown as Call,
      destroy: bind("int nvrtcDestroyProgram(void*)"),
      logSize: bind("int nvrtcGetProgramLogSize(uint64_t, void*)"),
      log: bind("int nvrtcGetProgramLog(uint64_t, void*)"),
    };
    const result = (kind: string): { size: Call; get: Call } => ({
      size: bind(`int nvrtcGet${kind}Size(uint64_t, void*)`),
      get: bind(`int nvrtcGet${kind}(uint64_t, void*)`),
    });
    this.results = { PTX: result("PTX"), CUBIN: result("CUBIN") };
    const [major, minor] = [new Int32Array(1), new Int32Array(1)];
    check("nvrtcVersion", bind("int nvrtcVersion(void*, void*)")(major, minor));
    this.version = [major[0]!, minor[0]!];
    this.supported = supportedBy(bind);
  }

  /** Machine code, or PTX that ends with a NUL. Throws a CudaError with the compiler's log. */
  compile(source: string, name: string, target: Target, options: readonly string[]): Uint8Array {
    const program = this.program(source, name);
    const all = allOptions(target, options);
    try {
      return this.result(program, this.calls.compile(program, all.length, all), name, target);
    } finally {
      this.calls.destroy(BigUint64Array.of(program));
    }
  }

  /** The same on another thread (libuv's pool has four): NVRTC compiles as many programs at a time. */
  async compileLater(source: string, name: string, target: Target, options: readonly string[]): Promise<Uint8Array> {
    const program = this.program(source, name);
    const all = allOptions(target, options);
    try {
      const status = await new Promise<number>((resolve, reject) => {
        this.compileAside(program, all.length, all, (error, code) => (error ? reject(error) : resolve(code)));
      });
      return this.result(program, status, name, target);
    } finally {
      this.calls.destroy(BigUint64Array.of(program));
    }
  }

  private program(source: string, name: string): bigint {
    const program = new BigUint64Array(1);
    check("nvrtcCreateProgram", this.calls.create(program, source, name, 0, null, null));
    return program[0]!;
  }

  /** The code of a program that was compiled with this status. */
  private result(program: bigint, status: number, name: string, target: Target): Uint8Array {
    const size = new BigUint64Array(1);
    if (status !== 0) {
      this.calls.logSize(program, size);
      const log = new Uint8Array(Number(size[0]));
      this.calls.log(program, log);
      throw new CudaError(`${name} does not compile for ${target}:\n${Buffer.from(log).toString("utf8")}`);
    }
    const kind = isPtx(target) ? "PTX" : "CUBIN";
    check(`nvrtcGet${kind}Size`, this.results[kind].size(program, size));
    const code = new Uint8Array(Number(size[0]));
    check(`nvrtcGet${kind}`, this.results[kind].get(program, code));
    return code;
  }
}

const allOptions = (target: Target, options: readonly string[]): string[] => [
  `--gpu-architecture=${target}`,
  "--std=c++17",
  ...options,
];

function supportedBy(bind: (signature: string) => Call): number[] | null {
  let [count, list]: (Call | null)[] = [null, null];
  try {
    count = bind("int nvrtcGetNumSupportedArchs(void*)");
    list = bind("int nvrtcGetSupportedArchs(void*)");
  } catch {
    return null;
  }
  const size = new Int32Array(1);
  check("nvrtcGetNumSupportedArchs", count(size));
  const supported = new Int32Array(size[0]!);
  check("nvrtcGetSupportedArchs", list(supported));
  return [...supported];
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
 * Compiled code by source, options, target and compiler version, kept on disk with its own checksum: a file that
 * does not match it is made again. A folder that cannot be written to costs the compile time and nothing else.
 */
export function compileCached(
  nvrtc: Pick<Nvrtc, "version" | "compile">,
  source: string,
  name: string,
  target: Target,
  options: readonly string[],
  folder = kernelCacheFolder(),
): Uint8Array {
  const file = cacheFile(nvrtc.version, source, name, target, options, folder);
  return readChecked(file) ?? keep(file, nvrtc.compile(source, name, target, options));
}

/** The same; a promise where the code has to be made, which is done on another thread. */
export function compileCachedLater(
  nvrtc: Pick<Nvrtc, "version" | "compileLater">,
  source: string,
  name: string,
  target: Target,
  options: readonly string[],
  folder = kernelCacheFolder(),
): Uint8Array | Promise<Uint8Array> {
  const file = cacheFile(nvrtc.version, source, name, target, options, folder);
  return readChecked(file) ?? nvrtc.compileLater(source, name, target, options).then((code) => keep(file, code));
}

function cacheFile(
  version: readonly [number, number],
  source: string,
  name: string,
  target: Target,
  options: readonly string[],
  folder: string,
): string {
  const key = sha256(JSON.stringify([source, options, target, version])).slice(0, 32);
  return join(folder, `${name.replace(/\W+/g, "_")}-${target}-${key}.${isPtx(target) ? "ptx" : "cubin"}`);
}

function keep(file: string, code: Uint8Array): Uint8Array {
  try {
    mkdirSync(dirname(file), { recursive: true });
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
