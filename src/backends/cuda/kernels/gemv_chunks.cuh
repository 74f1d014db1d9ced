// How products of few rows (gemv.cu) take their weights. A chunk is 128 bytes of each feature of a tile, CHUNK_BLOCKS blocks of 64
// elements; a warp copies one after another into slots of its own in shared memory, STAGES of them, so that many are on their way
// while it multiplies one, in whole lines: eight lanes a feature.
//
// The tensor cores multiply 16 features by 8 rows, the weights being mma's A operand. The order of the depth within a product
// is free, so each lane takes 16 neighbouring weights of a block: as pair p = 0…7 of lane t of a quad they are elements 16t + 2p,
// 16t + 2p + 1, and x is read in the same order.
#define CHUNK_BLOCKS (NF4 ? 4 : 1)
#define SLOT_BYTES (128 * FEATURES)
#define UNROLLED (WARPS * MT > 16 ? 1 : 2)  // blocks of a chunk that are multiplied together, as registers allow

__constant__ float CODE[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
    -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
    0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// 16 bytes from global to shared memory, past the L1 cache; zeros where `bytes` is 0.
DEVICE void copy_16(u32 to, const u8* from, u32 bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
DEVICE void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but the last N groups of copies are there.
template <int N> DEVICE void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
DEVICE uint2 shared_8(u32 at) {
  uint2 y;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(y.x), "=r"(y.y) : "r"(at));
  return y;
}
DEVICE uint4 shared_16(u32 at) {
  uint4 y;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(y.x), "=r"(y.y), "=r"(y.z), "=r"(y.w) : "r"(at));
  return y;
}
DEVICE u32 shared_4(u32 at) {
  u32 y;
  asm("ld.shared.u32 %0, [%1];" : "=r"(y) : "r"(at));
  return y;
}
DEVICE void set_shared_16(u32 at, const uint4& x) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
DEVICE u32 word(const uint2& w, int i) { return i == 0 ? w.x : w.y; }
DEVICE u32 word(const uint4& w, int i) { return i == 0 ? w.x : i == 1 ? w.y : i == 2 ? w.z : w.w; }

// A tile of all parts' tiles: the part it belongs to, its number there.
struct Tile {
  int part, index;
};

// A warp's chunks: those of its block's tiles, one tile after another, go to the warps in turn.
struct Cursor {
  int tile, chunk;
  DEVICE void settle(int chunks) {
    for (; chunk >= chunks; chunk -= chunks) tile += gridDim.x;
  }
  DEVICE void advance(int chunks) {
    chunk += WARPS;
    settle(chunks);
  }
};

// 16-byte pieces of a feature lie in a slot in an order of its own, so that lanes meet in no bank when they read as `multiply` does.
DEVICE u32 place_of(u32 feature, u32 piece) { return 128 * feature + 16 * (piece ^ (feature & 3) << 1 ^ (feature & 1)); }

// Past a part's last feature, and past the end of a feature, there are zeros.
DEVICE void copy_chunk(u32 slot, const Part& p, int tile, int chunk, int K) {
  const int lane = threadIdx.x & 31, piece = lane & 7, pitch = NF4 ? K / 2 : 2 * K, at = 128 * chunk + 16 * piece;
  const u32 to = slot + place_of(lane >> 3, piece);
  const int feature = FEATURES * tile + (lane >> 3), features = at < pitch ? p.n - feature : 0;
  const u8* from = p.weight + (i64)feature * pitch + at;
#pragma unroll
  for (int i = 0; i < 4 * MT; i++, from += 4 * pitch)  // four features further they lie in the same order
    copy_16(to + 512 * i, from, 4 * i < features ? 16 : 0);
}

// alpha·absmax of a chunk's blocks: a lane has those of the t-th one, for the features g and g + 8 of each 16 of the tile. Features past
// the last one have its; blocks past the depth have 0, whatever they are multiplied with.
struct Scales {
#if NF4
#if NESTED
  u32 code[MT][2];
#endif
  float absmax[MT][2];
  float alpha;
  DEVICE void load(const Part& p, int tile, int chunk, int K) {
    const int lane = threadIdx.x & 31, g = lane >> 2, blocks = K / 64, last = p.n * blocks - 1;
    const int block = CHUNK_BLOCKS * chunk + (lane & 3), first = (FEATURES * tile + g) * blocks + block;
    alpha = block < blocks ? p.alpha : 0.0f;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const u32 at = min(first + (16 * m + 8 * h) * blocks, last);
#if NESTED
        code[m][h] = reinterpret_cast<const u8*>(p.absmax)[at];
        absmax[m][h] = p.nested[at >> 8];
#else
        absmax[m][h] = reinterpret_cast<const float*>(p.absmax)[at];
#endif
      }
  }
  DEVICE float of(const Part& p, const float* map, int m, int h) const {
#if NESTED
    return alpha * __fadd_rn(__fmul_rn(map[code[m][h]], absmax[m][h]), p.offset);
#else
    return alpha * absmax[m][h];
#endif
  }
#else
  DEVICE void load(const Part&, int, int, int) {}
  DEVICE float of(const Part& p, const float*, int, int) const { return p.alpha; }
#endif
};

// The two values of each byte of 4-bit weights as bf16, once for each lane, so that no two lanes meet in a bank. The table begins at a
// multiple of its size, so that the bits of a byte and of a lane make up an address.
struct Table {
  u32 first;  // address
  DEVICE u32 end() const { return first + TABLE_BYTES; }
#if NF4
  DEVICE void fill() const {
    for (int i = threadIdx.x; i < 256 * 8; i += THREADS) {  // the even element is the high half of its byte
      const u32 both = pair_of(CODE[i >> 7], CODE[i >> 3 & 15]);
      set_shared_16(first + 16 * i, make_uint4(both, both, both, both));
    }
  }
  DEVICE u32 operator()(u32 bits, int byte) const {
    const u32 entry = (byte == 0 ? bits << 7 : bits >> (8 * byte - 7)) & 0x7f80;
    return shared_4(entry | first | 4 * (threadIdx.x & 31));
  }
#endif
};
DEVICE Table table_at(const u8* memory) {
  const u32 at = (u32)__cvta_generic_to_shared(memory);
  return {NF4 ? (at + TABLE_BYTES - 1) & ~(TABLE_BYTES - 1u) : at};
}

// The rows of x as a lane reads them. What comes of rows past the last one goes nowhere, so they are the last one again.
struct Rows {
  const u8* row[NT];
  DEVICE Rows(const bf16* x, int rows, int K) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int n = 0; n < NT; n++)
      row[n] = reinterpret_cast<const u8*>(x + (i64)(8 * n + g < rows ? 8 * n + g : rows - 1) * K + 16 * t);
  }
};

// acc += scale·(features × 64 deep)·(64 deep × 8·NT rows) for each block of the chunk.
DEVICE void multiply(float (&acc)[MT][NT][4], u32 slot, const Scales& scales, const Part& p, const float* map,
                     const Table& table, int chunk, const Rows& x, int K) {
  const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  float mine[MT][2];
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) mine[m][h] = scales.of(p, map, m, h);
#pragma unroll UNROLLED
  for (int b = 0; b < CHUNK_BLOCKS; b++) {
    const u32 block = min(CHUNK_BLOCKS * chunk + b, K / 64 - 1);
    uint4 xs[NT][2];
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int q = 0; q < 2; q++) xs[n][q] = reinterpret_cast<const uint4*>(x.row[n] + 128 * block)[q];
#pragma unroll
    for (int m = 0; m < MT; m++) {
#if NF4
      uint2 w[2];
#pragma unroll
      for (int h = 0; h < 2; h++) w[h] = shared_8(slot + 128 * (16 * m + 8 * h) + place_of(g, 2 * b + (t >> 1)) + 8 * (t & 1));
#else
      uint4 w[2][2];
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int q = 0; q < 2; q++) w[h][q] = shared_16(slot + 128 * (16 * m + 8 * h) + place_of(g, 2 * t + q));
#endif
      float d[NT][4] = {};
#pragma unroll
      for (int j = 0; j < 4; j++) {
        u32 a[4];
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
          for (int q = 0; q < 2; q++) {
#if NF4
            a[h + 2 * q] = table(word(w[h], j >> 1), 2 * (j & 1) + q);  // a pair is a byte
#else
            a[h + 2 * q] = word(w[h][j >> 1], 2 * (j & 1) + q);
#endif
          }
#pragma unroll
        for (int n = 0; n < NT; n++)
          mma(d[n], a[0], a[1], a[2], a[3], word(xs[n][j >> 1], 2 * (j & 1)), word(xs[n][j >> 1], 2 * (j & 1) + 1));
      }
#pragma unroll
      for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
#if NF4
          const float scale = __shfl_sync(FULL_WARP, mine[m][i >> 1], (lane & ~3u) | b);
#else
          const float scale = mine[m][i >> 1];
#endif
          acc[m][n][i] += scale * d[n][i];
        }
    }
  }
}
