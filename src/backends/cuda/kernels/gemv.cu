// Products of few rows with up to three weights: y = acc + bias + alpha·x·Wᵀ + alpha2·low·Bᵀ, x [M, K] bf16, K a multiple of
// 64. They are as fast as the weights stream in. NF4: 1: 4-bit weights with blocks of 64 elements, 0: bf16 weights. NT: rows
// of x are taken 8·NT at a time; MT: features 16·MT at a time, which share what is read of x. Y: type of y and acc.
//
// A block takes a tile of 16·MT features at a time. Its first WARPS warps only stream (gemv_chunks.cuh): each multiplies every
// WARPS-th chunk of the depth, with the next chunk, of the next tile if need be, on its way. The TAIL warps after them have the
// rest of a tile: the update (gemv_update.cuh), acc and bias, the sum of what the others found. Sums of two tiles are held in
// turn, so that neither waits.
#define WARPS 8
#define TAIL (NT * MT >= 4 ? 4 : 1)
#define FEATURES (16 * MT)
#define OUTPUTS (FEATURES * ROWS / (32 * TAIL))  // of a tile, for each thread of the TAIL
#define ROWS (8 * NT)
#define PITCH (ROWS + 1)
#define DOUBLE_QUANT_MAP 256
// Words of dynamic shared memory: the decoding table, the maps of three weights, partial sums of two tiles in turn.
#define TABLE_WORDS (NF4 ? 256 * 32 : 0)
#define MAPS_WORDS (NF4 ? 3 * DOUBLE_QUANT_MAP : 0)

// A weight [n, K] and what belongs to it. Pointers that may be 0: nested and map (no double quantisation), bias, acc, low.
struct Part {
  const u8* weight;
  const void* absmax;
  const float* nested;
  const float* map;
  const float* bias;
  const Y* acc;
  const bf16* low;
  const float* b;
  Y* y;
  int n, rank;
  float offset, alpha, alpha2;
  int pad;
};

DEVICE void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
DEVICE u32 pair_of(float low, float high) {
  u32 y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

#include "gemv_chunks.cuh"
#include "gemv_update.cuh"

// The part that a tile of all parts' tiles belongs to, and its number there.
DEVICE Part part_of(int& tile, int& index, const Part& p0, const Part& p1, const Part& p2) {
  const int n0 = (p0.n + FEATURES - 1) / FEATURES, n1 = (p1.n + FEATURES - 1) / FEATURES;
  if (tile < n0) return index = 0, p0;
  tile -= n0;
  if (tile < n1) return index = 1, p1;
  tile -= n1;
  return index = 2, p2;
}

// Barriers of the whole block by number: those who arrive go on, those who meet wait until all others are there.
DEVICE void arrive(int barrier) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(32 * (WARPS + TAIL)) : "memory"); }
DEVICE void meet(int barrier) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(32 * (WARPS + TAIL)) : "memory"); }
#define FULL 1   // + turn: the sums of a tile are there
#define EMPTY 3  // + turn: they have been read

// What lanes hold of an accumulator [16 features, 8·NT rows] to its place in shared memory.
DEVICE void store_sums(float* to, const float (&acc)[NT][4]) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) to[(g + 8 * (i >> 1)) * PITCH + 8 * n + 2 * t + (i & 1)] = acc[n][i];
}

// blockIdx.y: which rows.
extern "C" __global__ void __launch_bounds__(32 * (WARPS + TAIL), NT * MT == 1 ? 2 : 1)
    few_rows(int tiles, int M, int K, const bf16* x, Part p0, Part p1, Part p2) {
  extern __shared__ u32 dynamic[];
  u32* table = dynamic;
  float* maps = reinterpret_cast<float*>(dynamic + TABLE_WORDS);
  float* sums = reinterpret_cast<float*>(dynamic + TABLE_WORDS + MAPS_WORDS);  // [2, WARPS + 1, FEATURES, PITCH]
  const int warp = threadIdx.x >> 5;
  const int row0 = ROWS * blockIdx.y, rows = M - row0 < ROWS ? M - row0 : ROWS;
  const int chunks = (K / 64 + BLOCKS - 1) / BLOCKS;
  const bool streams = warp < WARPS;
  Chunk next;
  int ahead = blockIdx.x, chunk = warp;
  const auto fetch = [&]() {
    int tile = ahead, index;
    const Part p = part_of(tile, index, p0, p1, p2);
    load_chunk(next, p, tile, chunk, K);
  };
  start_next();
  if (streams && chunk < chunks) fetch();
#if NF4
  for (int i = threadIdx.x; i < 256 * 8; i += 32 * (WARPS + TAIL)) {  // the even element is the high half of its byte
    const u32 both = pair_of(CODE[i >> 7], CODE[i >> 3 & 15]);
    reinterpret_cast<uint4*>(table)[i] = make_uint4(both, both, both, both);
  }
  for (int i = threadIdx.x; i < DOUBLE_QUANT_MAP; i += 32 * (WARPS + TAIL)) {
    if (p0.map) maps[i] = p0.map[i];
    if (p1.map) maps[DOUBLE_QUANT_MAP + i] = p1.map[i];
    if (p2.map) maps[2 * DOUBLE_QUANT_MAP + i] = p2.map[i];
  }
  __syncthreads();
#endif
  wait_for_previous();
  int turn = 0;
  if (streams) {
    for (int all = blockIdx.x; all < tiles; all += gridDim.x, turn ^= 1) {
      int tile = all, index;
      const Part p = part_of(tile, index, p0, p1, p2);
      float acc[MT][NT][4] = {};
      for (int c = warp; c < chunks; c += WARPS) {
        const Chunk now = next;
        chunk += WARPS;
        if (chunk >= chunks) chunk = warp, ahead += gridDim.x;
        if (ahead < tiles) fetch();
        multiply(acc, now, p, maps + DOUBLE_QUANT_MAP * index, table, c, x + (i64)row0 * K, rows, K);
      }
      if (all >= 2 * gridDim.x) meet(EMPTY + turn);
#pragma unroll
      for (int m = 0; m < MT; m++) store_sums(sums + ((turn * (WARPS + 1) + warp) * FEATURES + 16 * m) * PITCH, acc[m]);
      arrive(FULL + turn);
    }
    return;
  }
  const int thread = threadIdx.x - 32 * WARPS;
  for (int all = blockIdx.x; all < tiles; all += gridDim.x, turn ^= 1) {
    int tile = all, index;
    const Part p = part_of(tile, index, p0, p1, p2);
    float* found = sums + turn * (WARPS + 1) * FEATURES * PITCH;
    float y[OUTPUTS];
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      const int e = thread + 32 * TAIL * o, feature = FEATURES * tile + e % FEATURES, n = e / FEATURES;
      y[o] = 0.0f;
      if (feature >= p.n || n >= rows) continue;
      if (p.bias) y[o] = p.bias[feature];
      if (p.acc) y[o] += to_float(p.acc[(i64)(row0 + n) * p.n + feature]);
    }
    if (p.rank > 0 && thread < 32 * MT) {
      float update[NT][4] = {};
      const int m = thread / 32;
      add_update(update, p, FEATURES * tile + 16 * m, row0, rows);
      store_sums(found + (WARPS * FEATURES + 16 * m) * PITCH, update);
    }
    meet(FULL + turn);
    const int parts = p.rank > 0 ? WARPS + 1 : WARPS;
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      const int e = thread + 32 * TAIL * o, f = e % FEATURES, n = e / FEATURES, feature = FEATURES * tile + f;
      if (feature >= p.n || n >= rows) continue;
      for (int w = 0; w < parts; w++) y[o] += found[(w * FEATURES + f) * PITCH + n];
      p.y[(i64)(row0 + n) * p.n + feature] = from_float<Y>(y[o]);
    }
    if (all + 2 * gridDim.x < tiles) arrive(EMPTY + turn);
  }
}
