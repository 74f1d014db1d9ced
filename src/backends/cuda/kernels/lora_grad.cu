// Both gradients of a low-rank update in one visit of dy[rows, n], for tensor cores (Ampere on): dlow = alpha·dy·B and
// dB = alpha·dyᵀ·low, B f32 [n, r], low [rows, r]. T: bf16 or f16; NR: r / 8, at most 4; STAGES: 2, or 3 where they fit.
// A block takes SLAB columns of a run of rows, ROWS at a time from a ring of STAGES in shared memory. Its dlow is a part
// of the sum over slabs, its dB a part of that over runs of rows; lora_grad_sum adds the parts in order.
#define SLAB 512
#define ROWS 32
#define R (8 * NR)
#define PITCH (SLAB + 8)      // so that eight rows are in different banks
#define LOW_PITCH (R + 8)
#define STAGE (ROWS * PITCH + ROWS * LOW_PITCH)
#define THREADS 256

DEVICE u32 shared_at(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE void copy16(void* to, const void* from, bool real) {
  const int bytes = real ? 16 : 0;  // the rest is filled with zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_at(to)), "l"(from), "r"(bytes));
}
DEVICE void load4(u32 (&f)[4], const T* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]) : "r"(shared_at(p)));
}
DEVICE void load4_transposed(u32 (&f)[4], const T* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]) : "r"(shared_at(p)));
}
DEVICE void load2_transposed(u32 (&f)[2], const T* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(f[0]), "=r"(f[1]) : "r"(shared_at(p)));
}
template <class E> struct Mma;
template <> struct Mma<bf16> {
  static DEVICE void run(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};
template <> struct Mma<f16> {
  static DEVICE void run(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};
DEVICE u32 pair(float low, float high) {
  return (u32)from_float<T>(low).bits | (u32)from_float<T>(high).bits << 16;
}

// grid: slabs × runs of `run` rows (a multiple of ROWS). low_parts [slabs, rows, R], b_parts [runs, n, R].
extern "C" __global__ void __launch_bounds__(THREADS, NR <= 2 ? 2 : 1)
lora_grad(i64 rows, int n, int r, i64 run, const T* dy, const float* b, const T* low, float* low_parts, float* b_parts) {
  extern __shared__ __align__(128) u8 memory[];
  T* ring = reinterpret_cast<T*>(memory);
  float* sums = reinterpret_cast<float*>(memory + STAGES * STAGE * sizeof(T));  // [4][ROWS][R]
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int column0 = blockIdx.x * SLAB;
  const i64 first = blockIdx.y * run, last = first + run < rows ? first + run : rows;
  const int tiles = (int)((last - first + ROWS - 1) / ROWS);

  auto fetch = [&](int tile) {
    T* stage = ring + tile % STAGES * STAGE;
    const i64 row0 = first + (i64)tile * ROWS;
#pragma unroll
    for (int i = 0; i < ROWS * SLAB / 8 / THREADS; i++) {
      const int piece = i * THREADS + threadIdx.x, y = piece / (SLAB / 8), x = piece % (SLAB / 8) * 8;
      const bool real = row0 + y < last && column0 + x < n;
      copy16(stage + y * PITCH + x, real ? dy + (row0 + y) * n + column0 + x : dy, real);
    }
    T* low_stage = stage + ROWS * PITCH;
    for (int piece = threadIdx.x; piece < ROWS * NR; piece += THREADS) {
      const int y = piece / NR, x = piece % NR * 8;
      const bool real = row0 + y < last && x < r;
      copy16(low_stage + y * LOW_PITCH + x, real ? low + (row0 + y) * r + x : low, real);
    }
  };
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < tiles) fetch(s);
    asm volatile("cp.async.commit_group;");
  }

  // dlow: this warp's half of the rows and quarter of the columns; B's part stays in registers.
  const int half = warp & 1, quarter = warp >> 1;
  u32 right[SLAB / 4 / 16][NR][2];
#pragma unroll
  for (int k = 0; k < SLAB / 4 / 16; k++)
#pragma unroll
    for (int j = 0; j < NR; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int column = column0 + quarter * (SLAB / 4) + k * 16 + h * 8 + lane % 4 * 2, rank = j * 8 + lane / 4;
        const float u = column < n && rank < r ? b[(i64)column * r + rank] : 0.0f;
        const float v = column + 1 < n && rank < r ? b[(i64)(column + 1) * r + rank] : 0.0f;
        right[k][j][h] = pair(u, v);
      }
  // dB: this warp's 64 columns.
  float db[4][NR][4] = {};

  for (int tile = 0; tile < tiles; tile++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
    __syncthreads();
    if (tile + STAGES - 1 < tiles) fetch(tile + STAGES - 1);
    asm volatile("cp.async.commit_group;");
    const T* stage = ring + tile % STAGES * STAGE;
    const T* low_stage = stage + ROWS * PITCH;

    float dl[NR][4] = {};
#pragma unroll
    for (int k = 0; k < SLAB / 4 / 16; k++) {
      u32 a[4];
      load4(a, stage + (half * 16 + lane % 16) * PITCH + quarter * (SLAB / 4) + k * 16 + lane / 16 * 8);
#pragma unroll
      for (int j = 0; j < NR; j++) Mma<T>::run(dl[j], a, right[k][j]);
    }
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) {
      u32 down[NR][2];
#pragma unroll
      for (int j = 0; j < NR; j++) load2_transposed(down[j], low_stage + (k * 16 + lane % 16) * LOW_PITCH + j * 8);
#pragma unroll
      for (int m = 0; m < 4; m++) {
        // dyᵀ: the four 8×8 tiles in the order (columns, rows), (columns + 8, rows), (columns, rows + 8), …
        u32 a[4];
        load4_transposed(a, stage + (k * 16 + lane / 16 * 8 + lane % 8) * PITCH + warp * 64 + m * 16 + lane / 8 % 2 * 8);
#pragma unroll
        for (int j = 0; j < NR; j++) Mma<T>::run(db[m][j], a, down[j]);
      }
    }
#pragma unroll
    for (int j = 0; j < NR; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float* at = sums + (quarter * ROWS + half * 16 + h * 8 + lane / 4) * R + j * 8 + lane % 4 * 2;
        at[0] = dl[j][2 * h], at[1] = dl[j][2 * h + 1];
      }
    __syncthreads();
    const i64 row0 = first + (i64)tile * ROWS;
    for (int i = threadIdx.x; i < ROWS * R; i += THREADS) {
      const i64 row = row0 + i / R;
      if (row < last)
        low_parts[((i64)blockIdx.x * rows + row) * R + i % R] =
            sums[i] + sums[ROWS * R + i] + sums[2 * ROWS * R + i] + sums[3 * ROWS * R + i];
    }
  }
#pragma unroll
  for (int m = 0; m < 4; m++)
#pragma unroll
    for (int j = 0; j < NR; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int column = column0 + warp * 64 + m * 16 + h * 8 + lane / 4;
        if (column >= n) continue;
        float* at = b_parts + ((i64)blockIdx.y * n + column) * R + j * 8 + lane % 4 * 2;
        at[0] = db[m][j][2 * h], at[1] = db[m][j][2 * h + 1];
      }
}

// out[i] = acc[i] + alpha·Σ_p parts[p][i] over [rows, r], the parts' rows of R numbers.
template <class E> DEVICE void add_parts(i64 rows, int r, int count, float alpha, const float* parts, const float* acc, E* out) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * r; i += (i64)gridDim.x * blockDim.x) {
    const i64 row = i / r, at = row * R + i % r;
    float sum = 0.0f;
    for (int p = 0; p < count; p++) sum += parts[p * rows * R + at];
    out[i] = from_float<E>((acc ? acc[i] : 0.0f) + alpha * sum);
  }
}
KERNEL lora_grad_low(i64 rows, int r, int count, float alpha, const float* parts, T* out) {
  add_parts<T>(rows, r, count, alpha, parts, nullptr, out);
}
KERNEL lora_grad_b(i64 rows, int r, int count, float alpha, const float* parts, const float* acc, float* out) {
  add_parts<float>(rows, r, count, alpha, parts, acc, out);
}
