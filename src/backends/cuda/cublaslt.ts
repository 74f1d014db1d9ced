import type { FloatDType } from "../../graph/types.ts";
import type { Handle } from "./driver.ts";
import { CudaError } from "./errors.ts";
import { CUBLASLT, loadLibrary } from "./library.ts";

type Call = (...args: (number | bigint | ArrayBufferView | null)[]) => number;

const DATA_TYPE = { f32: 0, f16: 2, bf16: 14, e4m3: 28 } as const;
const COMPUTE_F32 = 68;
const TRANSPOSE_A = 3;
const TRANSPOSE_B = 4;
const SCALE_A = 17;
const SCALE_B = 18;
const FAST_SUMS = 25;
const SCALE_MODE_A = 31;
const SCALE_MODE_B = 32;
/** A scale for every row of an operand, f32. */
const SCALE_ROWS = 3;
const MAX_WORKSPACE = 1;
const HEURISTIC_BYTES = 96;
const ALGORITHM_BYTES = 64;

/** Memory that products may use for partial sums; what the library's documentation advises for Hopper. */
export const PRODUCT_WORKSPACE = 32 * 2 ** 20;

/** Types that the library gives a product of operands of a type in, with sums in f32 (cublasLtMatmul's table of types). */
export const PRODUCT_OUTPUTS: Readonly<Record<FloatDType | "e4m3", readonly FloatDType[]>> = {
  f32: ["f32"],
  bf16: ["bf16", "f32"],
  f16: ["f16", "f32"],
  e4m3: ["bf16", "f16", "f32"],
};

/** D = alpha·op(A)·op(B) + beta·C over row-major matrices; op(A) is [m, k], op(B) [k, n], C and D [m, n]. */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transA: boolean;
  readonly transB: boolean;
  /** Type of A and B; sums are f32. e4m3 has a scale for each row of op(A) and column of op(B), and transB only. */
  readonly input: FloatDType | "e4m3";
  /** Type of C and D, one of PRODUCT_OUTPUTS. */
  readonly output: FloatDType;
  /** Row lengths. */
  readonly lda: number;
  readonly ldb: number;
  readonly ldc: number;
  /** Of e4m3: sums with fewer bits, which is faster. */
  readonly fastSums?: boolean;
}

/** Where a product's operands are. `c` may be `d`; it is not read when beta is 0. Scales are those of e4m3. */
export interface ProductOperands {
  readonly a: number;
  readonly b: number;
  readonly c: number;
  readonly d: number;
  readonly alpha: number;
  readonly beta: number;
  readonly scaleA?: number;
  readonly scaleB?: number;
}

interface Plan {
  readonly description: Handle;
  readonly layouts: readonly [Handle, Handle, Handle];
  readonly algorithm: Uint8Array;
}

/** Matrix products by NVIDIA's library; what it chooses for a shape is asked once. */
export class CublasLt {
  readonly path: string;
  readonly version: number;
  private readonly calls: Record<string, Call>;
  private readonly handle: Handle;
  private readonly preference: Handle;
  private readonly plans = new Map<string, Plan>();
  private readonly alpha = new Float32Array(1);
  private readonly beta = new Float32Array(1);

  constructor() {
    const { handle, path } = loadLibrary(CUBLASLT);
    this.path = path;
    const bind = (signature: string): Call => handle.func(signature) as unknown as Call;
    this.version = Number((bind("size_t cublasLtGetVersion()") as () => number)());
    this.calls = {
      create: bind("int cublasLtCreate(void*)"),
      destroy: bind("int cublasLtDestroy(uint64_t)"),
      descCreate: bind("int cublasLtMatmulDescCreate(void*, int, int)"),
      descDestroy: bind("int cublasLtMatmulDescDestroy(uint64_t)"),
      descSet: bind("int cublasLtMatmulDescSetAttribute(uint64_t, int, void*, size_t)"),
      layoutCreate: bind("int cublasLtMatrixLayoutCreate(void*, int, uint64_t, uint64_t, int64_t)"),
      layoutDestroy: bind("int cublasLtMatrixLayoutDestroy(uint64_t)"),
      preferenceCreate: bind("int cublasLtMatmulPreferenceCreate(void*)"),
      preferenceDestroy: bind("int cublasLtMatmulPreferenceDestroy(uint64_t)"),
      preferenceSet: bind("int cublasLtMatmulPreferenceSetAttribute(uint64_t, int, void*, size_t)"),
      heuristic: bind(
        "int cublasLtMatmulAlgoGetHeuristic(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, int, void*, void*)",
      ),
      matmul: bind(
        "int cublasLtMatmul(uint64_t, uint64_t, void*, uint64_t, uint64_t, uint64_t, uint64_t, void*, uint64_t, uint64_t, uint64_t, uint64_t, void*, uint64_t, size_t, uint64_t)",
      ),
    };
    this.handle = this.make("create");
    this.preference = this.make("preferenceCreate");
    this.call("preferenceSet", this.preference, MAX_WORKSPACE, new BigUint64Array([BigInt(PRODUCT_WORKSPACE)]), 8);
  }

  /** Enqueue a product. */
  run(product: Product, at: ProductOperands, workspace: number, stream: Handle): void {
    const { description, layouts, algorithm } = this.plan(product);
    if (product.input === "e4m3") this.setScales(description, at.scaleA!, at.scaleB!);
    const [layoutA, layoutB, layoutC] = layouts;
    this.alpha[0] = at.alpha;
    this.beta[0] = at.beta;
    // Row-major C = A·B is column-major Cᵀ = Bᵀ·Aᵀ: the operands change places.
    this.call(
      "matmul",
      this.handle,
      description,
      this.alpha,
      at.b,
      layoutB,
      at.a,
      layoutA,
      this.beta,
      at.c,
      layoutC,
      at.d,
      layoutC,
      algorithm,
      workspace,
      PRODUCT_WORKSPACE,
      stream,
    );
  }

  dispose(): void {
    for (const { description, layouts } of this.plans.values()) {
      this.calls.descDestroy!(description);
      for (const layout of layouts) this.calls.layoutDestroy!(layout);
    }
    this.plans.clear();
    this.calls.preferenceDestroy!(this.preference);
    this.calls.destroy!(this.handle);
  }

  /** What the library chooses for a product. Throws a CudaError when it has nothing. */
  plan(product: Product): Plan {
    const key = Object.values(product).join();
    let plan = this.plans.get(key);
    if (!plan) {
      plan = this.choose(product);
      this.plans.set(key, plan);
    }
    return plan;
  }

  private choose(product: Product): Plan {
    const { m, n, k, transA, transB, input, output, lda, ldb, ldc } = product;
    const description = this.make("descCreate", COMPUTE_F32, DATA_TYPE.f32);
    this.call("descSet", description, TRANSPOSE_A, Int32Array.of(transB ? 1 : 0), 4);
    this.call("descSet", description, TRANSPOSE_B, Int32Array.of(transA ? 1 : 0), 4);
    if (input === "e4m3") {
      this.call("descSet", description, SCALE_MODE_A, Int32Array.of(SCALE_ROWS), 4);
      this.call("descSet", description, SCALE_MODE_B, Int32Array.of(SCALE_ROWS), 4);
      this.call("descSet", description, FAST_SUMS, Int8Array.of(product.fastSums ? 1 : 0), 1);
      // Which algorithms there are does not depend on where the scales are, but on there being some.
      this.setScales(description, 256, 256);
    }
    const layout = (type: keyof typeof DATA_TYPE, rows: number, cols: number, ld: number): Handle =>
      this.make("layoutCreate", DATA_TYPE[type], cols, rows, ld);
    const layoutA = transA ? layout(input, k, m, lda) : layout(input, m, k, lda);
    const layoutB = transB ? layout(input, n, k, ldb) : layout(input, k, n, ldb);
    const layoutC = layout(output, m, n, ldc);
    const result = new Uint8Array(HEURISTIC_BYTES);
    const found = new Int32Array(1);
    const operands = [layoutB, layoutA, layoutC, layoutC];
    const status = this.calls.heuristic!(this.handle, description, ...operands, this.preference, 1, result, found);
    if (status !== 0 || found[0] === 0) {
      const shape = `[${m}, ${k}]·[${k}, ${n}] in ${input} to ${output}`;
      throw new CudaError(`cuBLASLt ${this.version} has no algorithm for ${shape} (status ${status})`, status);
    }
    return { description, layouts: [layoutA, layoutB, layoutC], algorithm: result.slice(0, ALGORITHM_BYTES) };
  }

  /** The operands change places here too. */
  private setScales(description: Handle, scaleA: number, scaleB: number): void {
    this.call("descSet", description, SCALE_A, BigUint64Array.of(BigInt(scaleB)), 8);
    this.call("descSet", description, SCALE_B, BigUint64Array.of(BigInt(scaleA)), 8);
  }

  private make(name: string, ...args: number[]): Handle {
    const cell = new BigUint64Array(1);
    this.call(name, cell, ...args);
    return cell[0]!;
  }

  private call(name: string, ...args: (number | bigint | ArrayBufferView | null)[]): void {
    const status = this.calls[name]!(...args);
    if (status !== 0) throw new CudaError(`cuBLASLt: ${name} failed with status ${status}`, status);
  }
}
