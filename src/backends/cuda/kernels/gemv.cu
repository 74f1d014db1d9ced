// Products of few rows with up to three weights: y = acc + bias + alpha·x·Wᵀ + alpha2·low·Bᵀ, x [M, K] bf16, K a multiple of
// 64. They are as fast as the weights stream in. NF4: 1: 4-bit weights with blocks of 64 elements (NESTED: their scales are
// quantised, too), 0: bf16 weights. NT: rows of x are taken 8·NT at a time; MT: features 16·MT at a time, which share what is
// read of x. Y: type of y and acc.
//
// A block takes a tile of 16·MT features at a time. Its first WARPS warps only stream: chunks of the depth, tile after tile, go
// to them in turn, and each has the next STAGES - 1 on their way while it multiplies one (gemv_chunks.cuh). The TAIL warps after
// them have the rest of a tile: the update (gemv_update.cuh), acc and bias, the sum of what the others found. Sums of two tiles
// are held in turn, so that neither waits.
#define FEATURES (16 * MT)
#define OUTPUTS (FEATURES * ROWS / (32 * TAIL))  // of a tile, for each thread of the TAIL
#define ROWS (8 * NT)
#define PITCH (ROWS + 1)
#define THREADS (32 * (WARPS + TAIL))
#define DOUBLE_QUANT_MAP 256
// Bytes of dynamic shared memory: sums of two tiles in turn, [2, WARPS + 1, FEATURES, PITCH], the maps of three weights, barriers,
// the decoding table from a multiple of its size on, the slots of chunks. lower-few-rows.ts adds them up.
#define SUMS_BYTES (4 * 2 * (WARPS + 1) * FEATURES * PITCH)
#define MAPS_BYTES (NF4 ? 4 * 3 * DOUBLE_QUANT_MAP : 0)
#define BARRIER_BYTES 128
#define TABLE_BYTES (NF4 ? 4 * 32 * 256 : 0)

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
struct Parts {
  Part part[3];
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

#include "barrier.cuh"
#include "gemv_chunks.cuh"
#include "gemv_update.cuh"

DEVICE int tiles_of(const Part& p) { return (p.n + FEATURES - 1) / FEATURES; }

// What lanes hold of an accumulator [16 features, 8·NT rows] to its place in shared memory.
DEVICE void store_sums(float* to, const float (&acc)[NT][4]) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) to[(g + 8 * (i >> 1)) * PITCH + 8 * n + 2 * t + (i & 1)] = acc[n][i];
}

// blockIdx.y: which rows.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    few_rows(int tiles, int M, int K, const bf16* x, const __grid_constant__ Parts parts) {
  extern __shared__ __align__(128) u8 dynamic[];
  float* sums = reinterpret_cast<float*>(dynamic);
  float* maps = reinterpret_cast<float*>(dynamic + SUMS_BYTES);
  const int warp = threadIdx.x >> 5;
  const int row0 = ROWS * blockIdx.y, rows = M - row0 < ROWS ? M - row0 : ROWS;
  const int chunks = (K / 64 + CHUNK_BLOCKS - 1) / CHUNK_BLOCKS;
  const int first1 = tiles_of(parts.part[0]), first2 = first1 + tiles_of(parts.part[1]);
  const auto tile_at = [&](int tile) {
    if (tile < first1) return Tile{0, tile};
    return tile < first2 ? Tile{1, tile - first1} : Tile{2, tile - first2};
  };
  const bool streams = warp < WARPS;
  const u32 barriers = (u32)__cvta_generic_to_shared(dynamic + SUMS_BYTES + MAPS_BYTES);
  const auto full = [&](int turn) { return Barrier{barriers + 8 * turn}; };        // the sums of a tile are there
  const auto empty = [&](int turn) { return Barrier{barriers + 16 + 8 * turn}; };  // they have been read
  const Table table = table_at(dynamic + SUMS_BYTES + MAPS_BYTES + BARRIER_BYTES);
  const u32 slots = table.end() + warp * STAGES * SLOT_BYTES;
  Cursor next{(int)blockIdx.x, warp};  // what is to be copied next
  Scales scales[STAGES - 1];           // of the chunks on their way
  const auto copy = [&](u32 slot, Scales& scale) {
    if (next.tile < tiles) {
      const Tile tile = tile_at(next.tile);
      copy_chunk(slot, parts.part[tile.part], tile.index, next.chunk, K);
      scale.load(parts.part[tile.part], tile.index, next.chunk, K);
      next.advance(chunks);
    }
    end_of_copies();
  };
  start_next();
  if (streams) {
    next.settle(chunks);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) copy(slots + SLOT_BYTES * i, scales[i]);
  }
  if (threadIdx.x == 0)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      full(i).init(THREADS);
      empty(i).init(32 * TAIL);
    }
#if NF4
  table.fill();
  for (int i = threadIdx.x; i < DOUBLE_QUANT_MAP; i += THREADS)
#pragma unroll
    for (int p = 0; p < 3; p++)
      if (parts.part[p].map) maps[DOUBLE_QUANT_MAP * p + i] = parts.part[p].map[i];
#endif
  __syncthreads();
  wait_for_previous();
  int turn = 0, phase = 0;  // of a block's tiles, the i-th: i modulo 2, i / 2
  if (streams) {
    const Rows from(x + (i64)row0 * K, rows, K);
    int slot = 0, chunk = warp;
    for (int all = blockIdx.x; all < tiles; all += gridDim.x, phase += turn, turn ^= 1) {
      const int part = tile_at(all).part;
      float acc[MT][NT][4] = {};
      for (; chunk < chunks; chunk += WARPS) {
        wait_for_copies<STAGES - 2>();
        __syncwarp();  // all lanes' copies are there, and all have read the slot that is filled next
        const Scales now = scales[0];
#pragma unroll
        for (int i = 0; i + 1 < STAGES - 1; i++) scales[i] = scales[i + 1];
        copy(slots + SLOT_BYTES * (slot == 0 ? STAGES - 1 : slot - 1), scales[STAGES - 2]);
        multiply(acc, slots + SLOT_BYTES * slot, now, parts.part[part], maps + DOUBLE_QUANT_MAP * part, table, chunk, from, K);
        slot = slot == STAGES - 1 ? 0 : slot + 1;
      }
      chunk -= chunks;
      if (phase > 0) empty(turn).wait(phase - 1);
#pragma unroll
      for (int m = 0; m < MT; m++) store_sums(sums + ((turn * (WARPS + 1) + warp) * FEATURES + 16 * m) * PITCH, acc[m]);
      full(turn).arrive();
    }
    return;
  }
  const int thread = threadIdx.x - 32 * WARPS;
  for (int all = blockIdx.x; all < tiles; all += gridDim.x, phase += turn, turn ^= 1) {
    const Tile tile = tile_at(all);
    const Part& p = parts.part[tile.part];
    float* found = sums + turn * (WARPS + 1) * FEATURES * PITCH;
    float y[OUTPUTS];
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      const int e = thread + 32 * TAIL * o, feature = FEATURES * tile.index + e % FEATURES, n = e / FEATURES;
      y[o] = 0.0f;
      if (feature >= p.n || n >= rows) continue;
      if (p.bias) y[o] = p.bias[feature];
      if (p.acc) y[o] += to_float(p.acc[(i64)(row0 + n) * p.n + feature]);
    }
    if (p.rank > 0 && thread < 32 * MT) {
      float update[NT][4] = {};
      const int m = thread / 32;
      add_update(update, p, FEATURES * tile.index + 16 * m, row0, rows);
      store_sums(found + (WARPS * FEATURES + 16 * m) * PITCH, update);
    }
    full(turn).arrive();
    full(turn).wait(phase);
    const int addends = p.rank > 0 ? WARPS + 1 : WARPS;
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      const int e = thread + 32 * TAIL * o, f = e % FEATURES, n = e / FEATURES, feature = FEATURES * tile.index + f;
      if (feature >= p.n || n >= rows) continue;
#pragma unroll
      for (int w = 0; w < WARPS + 1; w++)
        if (w < addends) y[o] += found[(w * FEATURES + f) * PITCH + n];
      p.y[(i64)(row0 + n) * p.n + feature] = from_float<Y>(y[o]);
    }
    empty(turn).arrive();
  }
}
