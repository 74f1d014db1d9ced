// What the tensor-core attention kernels share: tiles in shared memory, fragments of mma.sync, spans of visible tokens.
// Names they are compiled with. T: bf16 or f16; D: head size, a multiple of 16; CAP: whether logits are soft-capped;
// WARPS: warps of a block; MT: 16-row pieces that a warp owns; BN: rows of a streamed tile; STAGES: tiles in flight;
// MIN_BLOCKS: blocks that a multiprocessor should hold.
#define BM (16 * MT * WARPS)
#define THREADS (32 * WARPS)
#define PITCH (D + 8)  // row of a tile: 16 bytes more than a head, so that the 8 rows of an ldmatrix lie in different banks
#define LOG2E 1.4426950408889634f
#define UNROLL _Pragma("unroll")

struct Frag { u32 x[4]; };

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE Frag ldmatrix(const T* p) {
  Frag f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3]) : "r"(shared_address(p)));
  return f;
}
DEVICE Frag ldmatrix_t(const T* p) {
  Frag f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3]) : "r"(shared_address(p)));
  return f;
}
// c[16×8] += a[16×16]·b[16×8]. Turing has half the depth, in f16 alone.
#if __CUDA_ARCH__ >= 800
#define MMA(TYPE)                                                                                                           \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"  \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                                      \
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1))
DEVICE void mma_of(bf16, float c[4], const Frag& a, u32 b0, u32 b1) { MMA("bf16"); }
DEVICE void mma_of(f16, float c[4], const Frag& a, u32 b0, u32 b1) { MMA("f16"); }
#else
DEVICE void mma_half(float c[4], u32 a0, u32 a1, u32 b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b));
}
DEVICE void mma_of(f16, float c[4], const Frag& a, u32 b0, u32 b1) {
  mma_half(c, a.x[0], a.x[1], b0), mma_half(c, a.x[2], a.x[3], b1);
}
#endif
DEVICE void mma(float c[4], const Frag& a, u32 b0, u32 b1) { mma_of(T(), c, a, b0, b1); }
// c[16×16] += a·b, b as two 8-column pieces.
DEVICE void mma2(float c0[4], float c1[4], const Frag& a, const Frag& b) {
  mma(c0, a, b.x[0], b.x[1]), mma(c1, a, b.x[2], b.x[3]);
}
#if __CUDA_ARCH__ >= 800
DEVICE u32 pack_of(bf16, float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
DEVICE u32 pack_of(f16, float low, float high) {
  u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
#else
DEVICE u32 pack_of(f16, float low, float high) {
  return (u32)from_float<f16>(high).bits << 16 | from_float<f16>(low).bits;
}
#endif
DEVICE u32 pack2(float low, float high) { return pack_of(T(), low, high); }
// Two accumulator pieces (16×16) as a left operand.
DEVICE Frag as_left(const float a[4], const float b[4]) {
  return {{pack2(a[0], a[1]), pack2(a[2], a[3]), pack2(b[0], b[1]), pack2(b[2], b[3])}};
}
DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// tanh with an absolute error of about 1e-7, which is what counts in a logit; tanh.approx has 5e-4 of the value.
DEVICE float tanh_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0f + exp2_fast(2.0f * LOG2E * x)));
  return 1.0f - 2.0f * y;
}

// A lane's place in a tile from which it loads: of left operands and of transposed right ones, and of right operands.
DEVICE int left_place() { const int l = threadIdx.x & 31; return (l & 15) * PITCH + (l >> 4) * 8; }
DEVICE int right_place() { const int l = threadIdx.x & 31; return ((l >> 4) * 8 + (l & 7)) * PITCH + ((l >> 3) & 1) * 8; }
// A 16×16 piece of a tile as the left operand; `tile` includes left_place().
DEVICE Frag left(const T* tile, int row, int col) { return ldmatrix(tile + row * PITCH + col); }
// 16 rows of a tile as 16 columns of the right operand (its transpose), depth `col`; `tile` includes right_place().
DEVICE Frag right_rows(const T* tile, int row, int col) { return ldmatrix(tile + row * PITCH + col); }
// 16 rows of a tile as the depth of the right operand, 16 of its columns; `tile` includes left_place().
DEVICE Frag right_cols(const T* tile, int row, int col) { return ldmatrix_t(tile + row * PITCH + col); }

// BYTES from global to shared memory, asynchronously where the card can; zeros when not inside.
template <int BYTES> DEVICE void copy_async(void* target, const void* source, bool inside) {
#if __CUDA_ARCH__ >= 800
  const int size = inside ? BYTES : 0;
  if (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)), "l"(source), "r"(size));
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(target)), "l"(source), "r"(size), "n"(BYTES));
#else
  Pack<u32, BYTES / 4> x = {};
  if (inside) x = load_pack<BYTES / 4>((const u32*)source);
  store_pack((u32*)target, x);
#endif
}
DEVICE void commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;");
#endif
}
// All of this thread's copies have arrived.
DEVICE void wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group 0;");
#endif
}
// Rows [from, from + ROWS) of x, [tokens, width], D elements of each, into a tile; rows past the last token become zeros.
template <int ROWS> DEVICE void load_tile(T* tile, const T* x, i64 width, int from, int tokens) {
  constexpr int CHUNKS = D / 8;
  if constexpr (THREADS % CHUNKS == 0 && ROWS % (THREADS / CHUNKS) == 0) {
    constexpr int STEP = THREADS / CHUNKS;
    const int r = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS;
    const T* source = x + (i64)(from + r) * width + 8 * c;
    T* target = tile + r * PITCH + 8 * c;
    UNROLL for (int i = 0; i < ROWS / STEP; i++) {
      const bool inside = from + r + i * STEP < tokens;
      copy_async<16>(target + i * STEP * PITCH, inside ? source : x, inside);
      source += STEP * width;
    }
  } else {
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
      const int r = i / CHUNKS, c = i % CHUNKS;
      const bool inside = from + r < tokens;
      copy_async<16>(tile + r * PITCH + 8 * c, x + (i64)(inside ? from + r : 0) * width + 8 * c, inside);
    }
  }
}
// attention_delta.cu's two numbers of a query: lse in base 2 and delta; zeros past the last token.
DEVICE void load_stats(const float* stats, int head, int heads, int t, int tokens, float& log_sum, float& delta) {
  const i64 at = (i64)head * tokens + t;
  log_sum = t < tokens ? stats[at] : 0.0f, delta = t < tokens ? stats[(i64)heads * tokens + at] : 0.0f;
}
// Those of queries [from, from + ROWS): all log_sum, then all delta.
template <int ROWS> DEVICE void load_stat_tile(float* tile, const float* stats, int head, int heads, int from, int tokens) {
  static_assert(2 * ROWS <= THREADS, "a thread a number");
  if (threadIdx.x >= 2 * ROWS) return;
  const int t = from + threadIdx.x % ROWS;
  const bool inside = t < tokens;
  const float* source = stats + (i64)(threadIdx.x < ROWS ? head : heads + head) * tokens + (inside ? t : 0);
  copy_async<4>(tile + threadIdx.x, source, inside);
}
// A warp's rows, [16·MT, D] in accumulators, times a factor of each, through the warp's part of a tile to rows
// [row, row + 16·MT) of x: 16 bytes a lane.
DEVICE void store_rows(T* part, float (&acc)[MT][D / 8][4], const float (&factor)[MT][2], T* x, i64 width, int row, int tokens) {
  const int lane = threadIdx.x & 31;
  UNROLL for (int m = 0; m < MT; m++)
    UNROLL for (int h = 0; h < 2; h++)
      UNROLL for (int n = 0; n < D / 8; n++)
        *reinterpret_cast<u32*>(part + (16 * m + 8 * h + (lane >> 2)) * PITCH + 8 * n + 2 * (lane & 3)) =
            pack2(acc[m][n][2 * h] * factor[m][h], acc[m][n][2 * h + 1] * factor[m][h]);
  __syncwarp();
  constexpr int CHUNKS = D / 8;
  for (int i = lane; i < 16 * MT * CHUNKS; i += 32) {
    const int r = i / CHUNKS, c = i % CHUNKS;
    if (row + r < tokens) store_pack(x + (i64)(row + r) * width + 8 * c, load_pack<8>(part + r * PITCH + 8 * c));
  }
  __syncwarp();
}

struct Span { int from, to; };
// Keys that query t sees.
DEVICE Span keys_of(int t, int tokens, const int* start, const int* end, int window, int causal) {
  if (t >= tokens) return {0, 0};
  int from = start[t] > 0 ? start[t] : 0, to = causal ? t + 1 : end[t];
  if (window > 0 && t - window + 1 > from) from = t - window + 1;
  if (to > tokens) to = tokens;
  return {from, to > from ? to : from};
}
// Queries that see key s.
DEVICE Span queries_of(int s, int tokens, const int* start, const int* end, int window, int causal) {
  if (s >= tokens) return {0, 0};
  int from = causal ? s : start[s] > 0 ? start[s] : 0, to = end[s] < tokens ? end[s] : tokens;
  if (window > 0 && window < to - s) to = s + window;
  return {from, to > from ? to : from};
}
// What rows see: all of them at least [inner.from, inner.to), none more than [outer.from, outer.to).
struct Reach {
  Span outer, inner;
  DEVICE bool none(int from, int to) const { return from >= outer.to || to <= outer.from; }
  DEVICE bool whole(int from, int to) const { return inner.from <= from && inner.to >= to; }
};
DEVICE int warp_least(int x) {
  UNROLL for (int d = 16; d > 0; d >>= 1) { const int y = __shfl_xor_sync(FULL_WARP, x, d); x = y < x ? y : x; }
  return x;
}
// Of a warp's rows; each of its first 16·MT lanes brings one. Rows past the last token see nothing and ask for nothing.
DEVICE Reach warp_reach(Span mine, bool exists) {
  constexpr int MOST = 0x7fffffff;
  const bool sees = exists && mine.to > mine.from;
  Reach r;
  r.outer = {warp_least(sees ? mine.from : MOST), -warp_least(sees ? -mine.to : 0)};
  r.inner = {-warp_least(exists ? -mine.from : 0), warp_least(exists ? mine.to : MOST)};
  if (r.outer.from >= r.outer.to) r.outer = {MOST, 0};
  return r;
}
// What any of the block's rows sees; {0, 0} when nothing.
DEVICE Span block_span(const Reach& mine) {
  __shared__ int from[WARPS], to[WARPS];
  if ((threadIdx.x & 31) == 0) from[threadIdx.x >> 5] = mine.outer.from, to[threadIdx.x >> 5] = mine.outer.to;
  __syncthreads();
  Span all = {from[0], to[0]};
  UNROLL for (int w = 1; w < WARPS; w++) {
    if (from[w] < all.from) all.from = from[w];
    if (to[w] > all.to) all.to = to[w];
  }
  return all.from < all.to ? all : Span{0, 0};
}

// Elements of row h (of a lane's two) of a piece outside what the row sees become `hidden`; its first column is token `from`.
template <int N> DEVICE void hide(float (&piece)[N][4], int h, Span seen, int from, float hidden) {
  UNROLL for (int n = 0; n < N; n++)
    UNROLL for (int e = 0; e < 2; e++) {
      const int token = from + 8 * n + 2 * (threadIdx.x & 3) + e;
      if (token < seen.from || token >= seen.to) piece[n][2 * h + e] = hidden;
    }
}

#define ATTENTION_ARGUMENTS                                                                                                 \
  int tokens, int heads, int kv_heads, int head_dim, const T *q, const T *k, const T *v, const int *start, const int *end, \
      float scale, int window, float softcap, int causal
