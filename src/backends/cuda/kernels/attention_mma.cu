// Attention over packed sequences on the tensor cores (Dao 2023), bf16 with f32 sums, for head sizes D that are multiples of
// 16 up to 128. A warp owns 16 rows: of queries forward and for dq, of keys for dk and dv, so that nothing is added up between
// warps and results never depend on timing. CAP: whether logits are soft-capped.
#define BN 64           // keys of a tile
#define BQ 32           // queries of a tile in attention_grad_kv
#define WARPS 4
#define BM (16 * WARPS)
#define PITCH (D + 8)   // row of a tile in shared memory: 16 bytes more, so that ldmatrix meets no bank twice
#define LOG2E 1.4426950408889634f

struct Frag { u32 x[4]; };

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE Frag ldmatrix(const bf16* p) {
  Frag f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3]) : "r"(shared_address(p)));
  return f;
}
DEVICE Frag ldmatrix_t(const bf16* p) {
  Frag f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3]) : "r"(shared_address(p)));
  return f;
}
// c[16×8] += a[16×16]·b[16×8]
DEVICE void mma(float c[4], const Frag& a, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
}
DEVICE u32 pack2(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// A 16×16 piece of a row-major tile as the left operand.
DEVICE Frag left(const bf16* tile, int row, int col) {
  const int l = threadIdx.x & 31;
  return ldmatrix(tile + (row + ((l >> 3) & 1) * 8 + (l & 7)) * PITCH + col + (l >> 4) * 8);
}
// 16 rows of a tile as 16 columns of the right operand (its transpose), depth `col`: two 8-column pieces.
DEVICE Frag right_rows(const bf16* tile, int row, int col) {
  const int l = threadIdx.x & 31;
  return ldmatrix(tile + (row + (l >> 4) * 8 + (l & 7)) * PITCH + col + ((l >> 3) & 1) * 8);
}
// 16 rows of a tile as the depth of the right operand, 16 of its columns: two 8-column pieces.
DEVICE Frag right_cols(const bf16* tile, int row, int col) {
  const int l = threadIdx.x & 31;
  return ldmatrix_t(tile + (row + ((l >> 3) & 1) * 8 + (l & 7)) * PITCH + col + (l >> 4) * 8);
}
// Two accumulator pieces (16×16) as a left operand.
DEVICE Frag as_left(const float a[4], const float b[4]) {
  return {{pack2(a[0], a[1]), pack2(a[2], a[3]), pack2(b[0], b[1]), pack2(b[2], b[3])}};
}

// Rows [from, from + rows) of x into a tile, asynchronously; rows outside [0, limit) become zeros.
template <int ROWS> DEVICE void load_tile(bf16* tile, const bf16* x, i64 width, int from, int limit) {
  constexpr int CHUNKS = D / 8;
  for (int i = threadIdx.x; i < ROWS * CHUNKS; i += WARPS * 32) {
    const int r = i / CHUNKS, c = i % CHUNKS, row = from + r;
    const bool inside = row >= 0 && row < limit;
    const int bytes = inside ? 16 : 0;
    const bf16* source = x + (i64)(inside ? row : 0) * width + 8 * c;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(tile + r * PITCH + 8 * c)), "l"(source), "r"(bytes));
  }
}
DEVICE void commit() { asm volatile("cp.async.commit_group;"); }
template <int N> DEVICE void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N)); }

struct Span { int from, to; };
DEVICE Span keys_of(int t, int tokens, const int* start, const int* end, int window, int causal) {
  int from = start[t] > 0 ? start[t] : 0, to = causal ? t + 1 : end[t];
  if (window > 0 && t - window + 1 > from) from = t - window + 1;
  if (to > tokens) to = tokens;
  return {from, to > from ? to : from};
}
// What the block's queries see: all of them at least [inner.from, inner.to), none more than [outer.from, outer.to).
struct BlockSpan { Span outer, inner; };
DEVICE BlockSpan join(Span mine, bool exists) {
  __shared__ int outer_from, outer_to, inner_from, inner_to;
  if (threadIdx.x == 0) outer_from = 0x7fffffff, outer_to = 0, inner_from = 0, inner_to = 0x7fffffff;
  __syncthreads();
  if (exists) {
    if (mine.to > mine.from) atomicMin(&outer_from, mine.from), atomicMax(&outer_to, mine.to);
    atomicMax(&inner_from, mine.from), atomicMin(&inner_to, mine.to);
  }
  __syncthreads();
  BlockSpan s = {{outer_from, outer_to}, {inner_from, inner_to}};
  if (s.outer.from >= s.outer.to) s.outer = {0, 0};
  return s;
}
// The logit, in units of log 2, of a raw product; `capped` receives tanh's value.
DEVICE float logit2(float raw, float scale, float softcap, float& capped) {
  if (!CAP) return raw * (scale * LOG2E);
  capped = tanhf(raw * scale / softcap);
  return softcap * LOG2E * capped;
}

#define ATTENTION_ARGUMENTS                                                                                                    \
  int tokens, int heads, int kv_heads, int head_dim, const bf16 *q, const bf16 *k, const bf16 *v, const int *start,            \
      const int *end, float scale, int window, float softcap, int causal

// Later queries see more keys and go first: the longest blocks must not be the last to start.
#define QUERY_BLOCK ((int)(gridDim.x - 1 - blockIdx.x) * BM)

extern "C" __global__ void __launch_bounds__(WARPS * 32, 2) attention(ATTENTION_ARGUMENTS, bf16* o, float* lse) {
  extern __shared__ __align__(16) bf16 memory[];
  bf16 *key_tiles = memory, *value_tiles = memory + 2 * BN * PITCH;
  const int head = blockIdx.y, kv = head / (heads / kv_heads), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int t0 = QUERY_BLOCK, mine = t0 + threadIdx.x;
  const i64 q_width = (i64)heads * D, kv_width = (i64)kv_heads * D;
  const bf16 *keys = k + kv * D, *values = v + kv * D;
  const bool exists = threadIdx.x < BM && mine < tokens;
  const BlockSpan span = join(exists ? keys_of(mine, tokens, start, end, window, causal) : Span{0, 0}, exists);

  load_tile<BM>(memory, q + head * D, q_width, t0, tokens);
  commit(), wait<0>();
  __syncthreads();
  Frag query[D / 16];
#pragma unroll
  for (int d = 0; d < D / 16; d++) query[d] = left(memory, 16 * warp, 16 * d);
  __syncthreads();

  const int row[2] = {t0 + 16 * warp + (lane >> 2), t0 + 16 * warp + (lane >> 2) + 8};
  Span see[2];
#pragma unroll
  for (int h = 0; h < 2; h++) see[h] = row[h] < tokens ? keys_of(row[h], tokens, start, end, window, causal) : Span{0, 0};
  float out[D / 8][4] = {}, max[2] = {-INF, -INF}, sum[2] = {0.0f, 0.0f};
  const int first = span.outer.from / BN * BN, tiles = (span.outer.to - first + BN - 1) / BN;
  if (tiles > 0) {
    load_tile<BN>(key_tiles, keys, kv_width, first, tokens);
    load_tile<BN>(value_tiles, values, kv_width, first, tokens);
  }
  commit();
  for (int i = 0; i < tiles; i++) {
    const int s0 = first + i * BN, at = (i & 1) * BN * PITCH;
    if (i + 1 < tiles) {
      const int next = ((i + 1) & 1) * BN * PITCH;
      load_tile<BN>(key_tiles + next, keys, kv_width, s0 + BN, tokens);
      load_tile<BN>(value_tiles + next, values, kv_width, s0 + BN, tokens);
    }
    commit(), wait<1>();
    __syncthreads();
    float s[BN / 8][4] = {};
#pragma unroll
    for (int d = 0; d < D / 16; d++)
#pragma unroll
      for (int n = 0; n < BN / 16; n++) {
        const Frag b = right_rows(key_tiles + at, 16 * n, 16 * d);
        mma(s[2 * n], query[d], b.x[0], b.x[1]), mma(s[2 * n + 1], query[d], b.x[2], b.x[3]);
      }
    const bool whole = span.inner.from <= s0 && span.inner.to >= s0 + BN;
    float top[2] = {max[0], max[1]};
#pragma unroll
    for (int n = 0; n < BN / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        float unused;
        s[n][e] = logit2(s[n][e], scale, softcap, unused);
        if (!whole) {
          const int key = s0 + 8 * n + 2 * (lane & 3) + (e & 1);
          if (key < see[e >> 1].from || key >= see[e >> 1].to) s[n][e] = -INF;
        }
        top[e >> 1] = fmaxf(top[e >> 1], s[n][e]);
      }
    float base[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      top[h] = fmaxf(top[h], __shfl_xor_sync(FULL_WARP, top[h], 1));
      top[h] = fmaxf(top[h], __shfl_xor_sync(FULL_WARP, top[h], 2));
      base[h] = top[h] == -INF ? 0.0f : top[h];
      const float shrink = exp2_fast(max[h] - base[h]);
      sum[h] *= shrink, max[h] = top[h];
#pragma unroll
      for (int n = 0; n < D / 8; n++) out[n][2 * h] *= shrink, out[n][2 * h + 1] *= shrink;
    }
#pragma unroll
    for (int n = 0; n < BN / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) s[n][e] = exp2_fast(s[n][e] - base[e >> 1]), sum[e >> 1] += s[n][e];
#pragma unroll
    for (int kk = 0; kk < BN / 16; kk++) {
      const Frag p = as_left(s[2 * kk], s[2 * kk + 1]);
#pragma unroll
      for (int n = 0; n < D / 16; n++) {
        const Frag b = right_cols(value_tiles + at, 16 * kk, 16 * n);
        mma(out[2 * n], p, b.x[0], b.x[1]), mma(out[2 * n + 1], p, b.x[2], b.x[3]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    sum[h] += __shfl_xor_sync(FULL_WARP, sum[h], 1);
    sum[h] += __shfl_xor_sync(FULL_WARP, sum[h], 2);
    if (row[h] >= tokens) continue;
    const float inverse = sum[h] > 0.0f ? 1.0f / sum[h] : 0.0f;
    bf16* target = o + row[h] * q_width + head * D + 2 * (lane & 3);
#pragma unroll
    for (int n = 0; n < D / 8; n++)
      *reinterpret_cast<u32*>(target + 8 * n) = pack2(out[n][2 * h] * inverse, out[n][2 * h + 1] * inverse);
    if ((lane & 3) == 0) lse[(i64)head * tokens + row[h]] = sum[h] > 0.0f ? (max[h] + log2f(sum[h])) / LOG2E : -INF;
  }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, 2)
attention_grad_q(ATTENTION_ARGUMENTS, const float* lse, const float* delta, const bf16* dout, bf16* dq) {
  extern __shared__ __align__(16) bf16 memory[];
  bf16 *query_tile = memory, *grad_tile = memory + BM * PITCH, *key_tile = memory + 2 * BM * PITCH, *value_tile = key_tile + BN * PITCH;
  const int head = blockIdx.y, kv = head / (heads / kv_heads), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int t0 = QUERY_BLOCK, mine = t0 + threadIdx.x;
  const i64 q_width = (i64)heads * D, kv_width = (i64)kv_heads * D;
  const bool exists = threadIdx.x < BM && mine < tokens;
  const BlockSpan span = join(exists ? keys_of(mine, tokens, start, end, window, causal) : Span{0, 0}, exists);
  load_tile<BM>(query_tile, q + head * D, q_width, t0, tokens);
  load_tile<BM>(grad_tile, dout + head * D, q_width, t0, tokens);
  Span see[2];
  float log_sum[2], subtract[2];
  const int row[2] = {t0 + 16 * warp + (lane >> 2), t0 + 16 * warp + (lane >> 2) + 8};
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const bool inside = row[h] < tokens;
    see[h] = inside ? keys_of(row[h], tokens, start, end, window, causal) : Span{0, 0};
    log_sum[h] = inside ? lse[(i64)head * tokens + row[h]] * LOG2E : 0.0f;
    subtract[h] = inside ? delta[(i64)head * tokens + row[h]] : 0.0f;
  }
  float out[D / 8][4] = {};
  const int first = span.outer.from / BN * BN;
  for (int s0 = first; s0 < span.outer.to; s0 += BN) {
    __syncthreads();
    load_tile<BN>(key_tile, k + kv * D, kv_width, s0, tokens);
    load_tile<BN>(value_tile, v + kv * D, kv_width, s0, tokens);
    commit(), wait<0>();
    __syncthreads();
    const bool whole = span.inner.from <= s0 && span.inner.to >= s0 + BN;
#pragma unroll
    for (int half = 0; half < 2; half++) {  // 32 keys at a time: fewer registers
      float s[4][4] = {}, dp[4][4] = {};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        const Frag a = left(query_tile, 16 * warp, 16 * d), g = left(grad_tile, 16 * warp, 16 * d);
#pragma unroll
        for (int n = 0; n < 2; n++) {
          const Frag b = right_rows(key_tile, 32 * half + 16 * n, 16 * d), w = right_rows(value_tile, 32 * half + 16 * n, 16 * d);
          mma(s[2 * n], a, b.x[0], b.x[1]), mma(s[2 * n + 1], a, b.x[2], b.x[3]);
          mma(dp[2 * n], g, w.x[0], w.x[1]), mma(dp[2 * n + 1], g, w.x[2], w.x[3]);
        }
      }
#pragma unroll
      for (int n = 0; n < 4; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          float capped = 0.0f;
          const float y = logit2(s[n][e], scale, softcap, capped);
          const int key = s0 + 32 * half + 8 * n + 2 * (lane & 3) + (e & 1);
          const bool seen = whole || (key >= see[e >> 1].from && key < see[e >> 1].to);
          const float p = seen ? exp2_fast(y - log_sum[e >> 1]) : 0.0f;
          s[n][e] = p * (dp[n][e] - subtract[e >> 1]) * (CAP ? 1.0f - capped * capped : 1.0f);
        }
#pragma unroll
      for (int kk = 0; kk < 2; kk++) {
        const Frag ds = as_left(s[2 * kk], s[2 * kk + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
          const Frag b = right_cols(key_tile, 32 * half + 16 * kk, 16 * n);
          mma(out[2 * n], ds, b.x[0], b.x[1]), mma(out[2 * n + 1], ds, b.x[2], b.x[3]);
        }
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (row[h] >= tokens) continue;
    bf16* target = dq + row[h] * q_width + head * D + 2 * (lane & 3);
#pragma unroll
    for (int n = 0; n < D / 8; n++)
      *reinterpret_cast<u32*>(target + 8 * n) = pack2(out[n][2 * h] * scale, out[n][2 * h + 1] * scale);
  }
}

// A warp's 16 keys against tiles of queries, of every query head that shares the key head in turn.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 2)
attention_grad_kv(ATTENTION_ARGUMENTS, const float* lse, const float* delta, const bf16* dout, bf16* dk, bf16* dv) {
  extern __shared__ __align__(16) bf16 memory[];
  bf16 *key_tile = memory, *value_tile = memory + BM * PITCH, *query_tile = memory + 2 * BM * PITCH, *grad_tile = query_tile + BQ * PITCH;
  __shared__ float log_sum[BQ], subtract[BQ];
  __shared__ int from[BQ], to[BQ];
  const int kv = blockIdx.y, group = heads / kv_heads, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int s0 = blockIdx.x * BM, mine = s0 + threadIdx.x;
  const i64 q_width = (i64)heads * D, kv_width = (i64)kv_heads * D;
  const bool exists = threadIdx.x < BM && mine < tokens;
  Span queries = {0, 0};
  if (exists) {
    queries = {causal ? mine : start[mine] > 0 ? start[mine] : 0, end[mine] < tokens ? end[mine] : tokens};
    if (window > 0 && causal && mine + window < queries.to) queries.to = mine + window;
  }
  const Span all = join(queries, exists).outer;
  load_tile<BM>(key_tile, k + kv * D, kv_width, s0, tokens);
  load_tile<BM>(value_tile, v + kv * D, kv_width, s0, tokens);
  const int key[2] = {s0 + 16 * warp + (lane >> 2), s0 + 16 * warp + (lane >> 2) + 8};
  float out_k[D / 8][4] = {}, out_v[D / 8][4] = {};
  for (int g = 0; g < group; g++) {
    const int head = kv * group + g;
    for (int t0 = all.from / BQ * BQ; t0 < all.to; t0 += BQ) {
      __syncthreads();
      load_tile<BQ>(query_tile, q + head * D, q_width, t0, tokens);
      load_tile<BQ>(grad_tile, dout + head * D, q_width, t0, tokens);
      commit();
      bool mine_whole = true;
      if (threadIdx.x < BQ) {
        const int t = t0 + threadIdx.x;
        const bool inside = t < tokens;
        const Span see = inside ? keys_of(t, tokens, start, end, window, causal) : Span{0, 0};
        from[threadIdx.x] = see.from, to[threadIdx.x] = see.to;
        log_sum[threadIdx.x] = inside ? lse[(i64)head * tokens + t] * LOG2E : 0.0f;
        subtract[threadIdx.x] = inside ? delta[(i64)head * tokens + t] : 0.0f;
        mine_whole = see.from <= s0 && see.to >= s0 + BM;
      }
      wait<0>();
      const bool whole = __syncthreads_and(mine_whole);
      float s[BQ / 8][4] = {}, dp[BQ / 8][4] = {};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        const Frag a = left(key_tile, 16 * warp, 16 * d), w = left(value_tile, 16 * warp, 16 * d);
#pragma unroll
        for (int n = 0; n < BQ / 16; n++) {
          const Frag b = right_rows(query_tile, 16 * n, 16 * d), c = right_rows(grad_tile, 16 * n, 16 * d);
          mma(s[2 * n], a, b.x[0], b.x[1]), mma(s[2 * n + 1], a, b.x[2], b.x[3]);
          mma(dp[2 * n], w, c.x[0], c.x[1]), mma(dp[2 * n + 1], w, c.x[2], c.x[3]);
        }
      }
#pragma unroll
      for (int n = 0; n < BQ / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int column = 8 * n + 2 * (lane & 3) + (e & 1);
          float capped = 0.0f;
          const float y = logit2(s[n][e], scale, softcap, capped);
          const bool seen = whole || (key[e >> 1] >= from[column] && key[e >> 1] < to[column]);
          const float p = seen ? exp2_fast(y - log_sum[column]) : 0.0f;
          s[n][e] = p;
          dp[n][e] = p * (dp[n][e] - subtract[column]) * (CAP ? 1.0f - capped * capped : 1.0f);
        }
#pragma unroll
      for (int kk = 0; kk < BQ / 16; kk++) {
        const Frag p = as_left(s[2 * kk], s[2 * kk + 1]), ds = as_left(dp[2 * kk], dp[2 * kk + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
          const Frag b = right_cols(grad_tile, 16 * kk, 16 * n), c = right_cols(query_tile, 16 * kk, 16 * n);
          mma(out_v[2 * n], p, b.x[0], b.x[1]), mma(out_v[2 * n + 1], p, b.x[2], b.x[3]);
          mma(out_k[2 * n], ds, c.x[0], c.x[1]), mma(out_k[2 * n + 1], ds, c.x[2], c.x[3]);
        }
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (key[h] >= tokens) continue;
    const i64 at = key[h] * kv_width + kv * D + 2 * (lane & 3);
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      *reinterpret_cast<u32*>(dk + at + 8 * n) = pack2(out_k[n][2 * h] * scale, out_k[n][2 * h + 1] * scale);
      *reinterpret_cast<u32*>(dv + at + 8 * n) = pack2(out_v[n][2 * h], out_v[n][2 * h + 1]);
    }
  }
}
