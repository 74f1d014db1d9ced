// How products of few rows (gemv.cu) stream weights and multiply them.
//
// The tensor cores multiply 16 features by 8 rows: the weights are mma's A operand, decoded in registers. The order of
// the depth within a product is free, so each lane takes 16 neighbouring weights of a block of 64: as pair p = 0…7 of lane t
// of a quad they are elements 16t + 2p, 16t + 2p + 1, and x is read in the same order.
#define BLOCKS (NF4 ? 4 : 1)  // blocks of 64 elements that a warp has in flight of each feature

__constant__ float CODE[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
    -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
    0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

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
