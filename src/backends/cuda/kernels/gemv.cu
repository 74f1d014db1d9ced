// Products of few rows with up to three weights: y = acc + bias + alpha·x·Wᵀ + alpha2·low·Bᵀ, x [M, K] bf16, K a multiple of
// 64. They are as fast as the weights stream in. NF4: 1: 4-bit weights with blocks of 64 elements, 0: bf16 weights. NT: rows
// of x are taken 8·NT at a time; MT: features 16·MT at a time, which share what is read of x. Y: type of y and acc.
//
// The tensor cores multiply 16 features by 8 rows: the weights are mma's A operand, decoded in registers. The order of
// the depth within a product is free, so each lane takes 16 neighbouring weights of a block of 64: as pair p = 0…7 of lane t
// of a quad they are elements 16t + 2p, 16t + 2p + 1, and x is read in the same order.
//
// A block takes a tile of 16·MT features at a time. Its first WARPS warps only stream: each multiplies every WARPS-th chunk of
// the depth, with the next chunk, of the next tile if need be, on its way. The TAIL warps after them have the rest of a tile:
// the update, acc and bias, the sum of what the others found. Sums of two tiles are held in turn, so that neither waits.
#define WARPS 8
#define TAIL (NT * MT >= 4 ? 4 : 1)
#define BLOCKS (NF4 ? 4 : 1)  // blocks of 64 elements that a warp has in flight of each feature
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

__constant__ float CODE[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
    -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
    0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

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
// Weights are read once: past the L1 cache, which x and the updates are to stay in.
DEVICE uint2 stream(const u8* p, uint2) {
  uint2 y;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0,%1}, [%2];" : "=r"(y.x), "=r"(y.y) : "l"(p));
  return y;
}
DEVICE uint4 stream(const u8* p, uint4) {
  uint4 y;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(y.x), "=r"(y.y), "=r"(y.z), "=r"(y.w)
               : "l"(p));
  return y;
}

// What a lane holds of BLOCKS blocks: its 16 weights of each for the features g and g + 8 of each 16 of the tile. Of the scales
// it has those of the t-th block.
struct Chunk {
#if NF4
  uint2 w[MT][BLOCKS][2];
  u32 code[MT][2];
  float nested[MT][2];
#else
  uint4 w[MT][BLOCKS][2][2];
#endif
};

DEVICE i64 row_of(const Part& p, int feature) { return feature < p.n ? feature : p.n - 1; }

DEVICE void load_chunk(Chunk& c, const Part& p, int tile, int chunk, int K) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, blocks = K / 64;
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const i64 row = row_of(p, FEATURES * tile + 16 * m + 8 * h + g);
#if NF4
      const u8* w = p.weight + row * (K / 2) + 32 * BLOCKS * chunk + 8 * t;
#pragma unroll
      for (int b = 0; b < BLOCKS; b++) {
        c.w[m][b][h] = make_uint2(0, 0);
        if (BLOCKS * chunk + b < blocks) c.w[m][b][h] = stream(w + 32 * b, uint2());
      }
      const int block = BLOCKS * chunk + t;
      const i64 scale = row * blocks + (block < blocks ? block : blocks - 1);
      c.nested[m][h] = 0.0f;
      if (p.nested) {
        c.code[m][h] = reinterpret_cast<const u8*>(p.absmax)[scale];
        c.nested[m][h] = p.nested[scale >> 8];
      } else c.code[m][h] = reinterpret_cast<const u32*>(p.absmax)[scale];
#else
      const u8* w = p.weight + row * (2 * K) + 128 * BLOCKS * chunk + 32 * t;
#pragma unroll
      for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int q = 0; q < 2; q++) c.w[m][b][h][q] = stream(w + 128 * b + 16 * q, uint4());
#endif
    }
}

DEVICE u32 word(const uint2& w, int i) { return i == 0 ? w.x : w.y; }
DEVICE u32 word(const uint4& w, int i) { return i == 0 ? w.x : i == 1 ? w.y : i == 2 ? w.z : w.w; }

// acc += scale·(features × 64 deep)·(64 deep × 8·NT rows) for each block of the chunk.
DEVICE void multiply(float (&acc)[MT][NT][4], const Chunk& c, const Part& p, const float* map, const u32* table, int chunk,
                     const bf16* x, int rows, int K) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, blocks = K / 64;
#if NF4
  float mine[MT][2];
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const u32 code = c.code[m][h];
      mine[m][h] = p.alpha * (p.nested ? __fadd_rn(__fmul_rn(map[code], c.nested[m][h]), p.offset) : __uint_as_float(code));
    }
#endif
#pragma unroll
  for (int b = 0; b < BLOCKS; b++) {
    const int block = BLOCKS * chunk + b;
    if (block >= blocks) break;
    uint4 xs[NT][2];
#pragma unroll
    for (int n = 0; n < NT; n++) {
      xs[n][0] = xs[n][1] = make_uint4(0, 0, 0, 0);
      if (8 * n + g < rows) {
        const uint4* at = reinterpret_cast<const uint4*>(x + (i64)(8 * n + g) * K + 64 * block + 16 * t);
        xs[n][0] = at[0], xs[n][1] = at[1];
      }
    }
#pragma unroll
    for (int m = 0; m < MT; m++) {
      float d[NT][4] = {};
#pragma unroll
      for (int j = 0; j < 4; j++) {
        u32 a[4];
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
          for (int q = 0; q < 2; q++) {
#if NF4
            // Pair 2j + q is a byte; the table has its two values once a lane, so that no two lanes meet in a bank.
            const u32 w = word(c.w[m][b][h], j >> 1);
            const int byte = 2 * (j & 1) + q;
            const u32 at = ((byte == 0 ? w << 7 : w >> (8 * byte - 7)) & 0x7f80) | 4 * lane;
            a[h + 2 * q] = *reinterpret_cast<const u32*>(reinterpret_cast<const u8*>(table) + at);
#else
            a[h + 2 * q] = word(c.w[m][b][h][j >> 1], 2 * (j & 1) + q);
#endif
          }
#pragma unroll
        for (int n = 0; n < NT; n++)
          mma(d[n], a[0], a[1], a[2], a[3], word(xs[n][j >> 1], 2 * (j & 1)), word(xs[n][j >> 1], 2 * (j & 1) + 1));
      }
#if NF4
      const int from = (lane & ~3) | b;
      const float s0 = __shfl_sync(FULL_WARP, mine[m][0], from), s1 = __shfl_sync(FULL_WARP, mine[m][1], from);
#else
      const float s0 = p.alpha, s1 = p.alpha;
#endif
#pragma unroll
      for (int n = 0; n < NT; n++) {
        acc[m][n][0] += s0 * d[n][0], acc[m][n][1] += s0 * d[n][1];
        acc[m][n][2] += s1 * d[n][2], acc[m][n][3] += s1 * d[n][3];
      }
    }
  }
}

// acc += alpha2·B·lowᵀ for 16 features from `feature0` on.
DEVICE void add_update(float (&acc)[NT][4], const Part& p, int feature0, int row0, int rows) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, r = p.rank;
  float d[NT][4] = {};
  for (int k0 = 0; k0 < r; k0 += 16) {
    float b[2][4];
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int feature = feature0 + g + 8 * h, k = k0 + 4 * t + i;
        b[h][i] = feature < p.n && k < r ? p.b[(i64)feature * r + k] : 0.0f;
      }
    u32 lows[NT][2];
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int q = 0; q < 2; q++) {
        u32 both = 0;
        if (8 * n + g < rows)
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const int k = k0 + 4 * t + 2 * q + i;
            if (k < r) both |= (u32)p.low[(i64)(row0 + 8 * n + g) * r + k].bits << (16 * i);
          }
        lows[n][q] = both;
      }
#pragma unroll
    for (int n = 0; n < NT; n++)
      mma(d[n], pair_of(b[0][0], b[0][1]), pair_of(b[1][0], b[1][1]), pair_of(b[0][2], b[0][3]), pair_of(b[1][2], b[1][3]),
          lows[n][0], lows[n][1]);
  }
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) acc[n][i] += p.alpha2 * d[n][i];
}

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

// A narrow f32 weight [n, K] (LoRA's A), K a multiple of 8.
struct Narrow {
  const float* weight;
  Y* y;
  int n, pad;
};

// y[m, f] = alpha·Σ x[m, k]·w[f, k] for narrow weights: a feature of one of them and eight rows a block.
KERNEL few_narrow(int M, int K, float alpha, const bf16* x, Narrow p0, Narrow p1, Narrow p2) {
  __shared__ float part[32][8];
  int f = blockIdx.x;
  Narrow p = p0;
  if (f >= p0.n) {
    f -= p0.n, p = p1;
    if (f >= p1.n) f -= p1.n, p = p2;
  }
  const int row0 = 8 * blockIdx.y, rows = M - row0 < 8 ? M - row0 : 8;
  const float* w = p.weight + (i64)f * K;
  start_next();
  wait_for_previous();
  float sum[8] = {};
  for (int k = 8 * threadIdx.x; k < K; k += 8 * blockDim.x) {
    const Pack<float, 4> a = load_pack<4>(w + k), b = load_pack<4>(w + k + 4);
#pragma unroll
    for (int m = 0; m < 8; m++) {
      if (m >= rows) break;
      const Pack<bf16, 8> v = load_pack<8>(x + (i64)(row0 + m) * K + k);
#pragma unroll
      for (int i = 0; i < 4; i++) sum[m] += a.v[i] * to_float(v.v[i]) + b.v[i] * to_float(v.v[4 + i]);
    }
  }
#pragma unroll
  for (int m = 0; m < 8; m++) {
    sum[m] = warp_sum(sum[m]);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5][m] = sum[m];
  }
  __syncthreads();
  if (threadIdx.x < rows) {
    float y = 0.0f;
    for (int warp = 0; warp < blockDim.x / 32; warp++) y += part[warp][threadIdx.x];
    p.y[(i64)(row0 + threadIdx.x) * p.n + f] = from_float<Y>(alpha * y);
  }
}
