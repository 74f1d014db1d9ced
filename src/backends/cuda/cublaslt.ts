import type { FloatDType } from "../../graph/types.ts";
import type { Handle } from "./driver.ts";
import { CudaError } from "./errors.ts";
import { CUBLASLT, loadLibrary } from "./library.ts";

type Call = (...args: (number | bigint | ArrayBufferView | null)[]) => number;

const DATA_TYPE: Record<FloatDType, number> = { f32: 0, f16: 2, bf16: 14 };
const COMPUTE_F32 = 68;
const TRANSPOSE_A = 3;
const TRANSPOSE_B = 4;
const MAX_WORKSPACE = 1;
const HEURISTIC_BYTES = 96;
const ALGORITHM_BYTES = 64;

/** Memory that products may use for partial sums; what the library's documentation advises for Hopper. */
export const PRODUCT_WORKSPACE = 32 * 2 ** 20;

/** D = alpha·op(A)·op(B) + beta·C over row-major matrices; op(A) is [m, k], op(B) [k, n], C and D [m, n]. */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transA: boolean;
  readonly transB: boolean;
  /** Type of A and B; sums are f32. */
  readonly input: FloatDType;
  /** Type of C and D. */
  readonly output: FloatDType;
  /** Row lengths. */
  readonly lda: number;
  readonly ldb: number;
  readonly ldc: number;
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

  /** Enqueue a product. `c` may be `d`; it is not read when beta is 0. */
  run(
    product: Product,
    at: { a: number; b: number; c: number; d: number; alpha: number; beta: number },
    workspace: number,
    stream: Handle,
  ): void {
    const { description, layouts, algorithm } = this.plan(product);
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
    const layout = (type: FloatDType, rows: number, cols: number, ld: number): Handle =>
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
