// dk and dv of attention on the tensor cores: a block takes BM keys of a key head past tiles of the queries that see them, of
// every query head that shares the key head in turn, so that nothing is added up between blocks and results never depend on
// timing. REGS: a warp keeps its keys and values in registers, else in shared memory. SUB: queries at a time.
// PART: 0 both, 1 dk alone, 2 dv alone (heads so large that a warp's registers hold one of them).
#include "attention_tiles.cuh"
#define WANT_K (PART != 2)
#define WANT_V (PART != 1)

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
attention_grad_kv(ATTENTION_ARGUMENTS, const float* stats, const T* dout, T* dk, T* dv) {
  extern __shared__ __align__(16) u8 raw[];
  T *memory = (T*)raw, *key_tile = memory, *value_tile = memory + BM * PITCH;
  T *query_tiles = memory + (REGS ? 0 : (WANT_K ? 2 : 1) * BM * PITCH), *grad_tiles = query_tiles + STAGES * BN * PITCH;
  float* stat_tiles = (float*)(grad_tiles + STAGES * BN * PITCH);
  const int kv = blockIdx.y, group = heads / kv_heads, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int s0 = blockIdx.x * BM, row0 = s0 + 16 * MT * warp;  // earlier keys are seen by more queries and go first
  const i64 q_width = (i64)heads * D, kv_width = (i64)kv_heads * D;
  const bool exists = lane < 16 * MT && row0 + lane < tokens;
  const Reach reach = warp_reach(exists ? queries_of(row0 + lane, tokens, start, end, window, causal) : Span{0, 0}, exists);
  const Span all = block_span(reach);
  const int first = all.from / BN * BN, last = all.to;

  load_tile<BM>(key_tile, k + kv * D, kv_width, s0, tokens);
  if (WANT_K) load_tile<BM>(value_tile, v + kv * D, kv_width, s0, tokens);
  commit();
  const T *key = key_tile + 16 * MT * warp * PITCH + left_place(), *value = value_tile + 16 * MT * warp * PITCH + left_place();
  constexpr int KEPT = REGS ? D / 16 : 1;
  Frag kept_key[MT][KEPT], kept_value[MT][KEPT];
  if (REGS) {
    wait();
    __syncthreads();
    UNROLL for (int m = 0; m < MT; m++)
      UNROLL for (int d = 0; d < KEPT; d++) {
        kept_key[m][d] = left(key, 16 * m, 16 * d);
        if (WANT_K) kept_value[m][d] = left(value, 16 * m, 16 * d);
      }
    __syncthreads();
  }
  const auto load = [&](int head, int t0, int stage) {
    load_tile<BN>(query_tiles + stage * BN * PITCH, q + (i64)head * D, q_width, t0, tokens);
    load_tile<BN>(grad_tiles + stage * BN * PITCH, dout + (i64)head * D, q_width, t0, tokens);
    load_stat_tile<BN>(stat_tiles + stage * 2 * BN, stats, head, heads, t0, tokens);
  };
  int head = kv * group, t0 = first, stage = 0;
  if (first < last) load(head, t0, stage);
  commit();
  const float unit = scale * LOG2E, inner = CAP ? scale / softcap : 0.0f, outer = softcap * LOG2E;
  float out_k[MT][D / 8][4] = {}, out_v[MT][D / 8][4] = {};  // one that is not wanted costs nothing
  while (first < last && head < (kv + 1) * group) {
    const bool more = t0 + BN < last;
    const int next_head = more ? head : head + 1, next_t0 = more ? t0 + BN : first;
    const bool next = next_head < (kv + 1) * group;
    wait();
    __syncthreads();
    if (STAGES > 1 && next) load(next_head, next_t0, stage ^ 1);
    commit();
    const T *query_rows = query_tiles + stage * BN * PITCH + right_place(), *grad_rows = grad_tiles + stage * BN * PITCH + right_place();
    const T *query_cols = query_tiles + stage * BN * PITCH + left_place(), *grad_cols = grad_tiles + stage * BN * PITCH + left_place();
    const float *log_sum = stat_tiles + stage * 2 * BN, *delta = log_sum + BN;
    UNROLL for (int sub = 0; sub < BN; sub += SUB) {
      if (reach.none(t0 + sub, t0 + sub + SUB)) continue;
      float s[MT][SUB / 8][4] = {}, dp[MT][SUB / 8][4] = {};
      UNROLL for (int d = 0; d < D / 16; d++) {
        Frag a[MT], w[MT];
        UNROLL for (int m = 0; m < MT; m++) {
          a[m] = REGS ? kept_key[m][REGS ? d : 0] : left(key, 16 * m, 16 * d);
          if (WANT_K) w[m] = REGS ? kept_value[m][REGS ? d : 0] : left(value, 16 * m, 16 * d);
        }
        UNROLL for (int n = 0; n < SUB / 16; n++) {
          const Frag b = right_rows(query_rows, sub + 16 * n, 16 * d);
          UNROLL for (int m = 0; m < MT; m++) mma2(s[m][2 * n], s[m][2 * n + 1], a[m], b);
          if (WANT_K) {
            const Frag c = right_rows(grad_rows, sub + 16 * n, 16 * d);
            UNROLL for (int m = 0; m < MT; m++) mma2(dp[m][2 * n], dp[m][2 * n + 1], w[m], c);
          }
        }
      }
      UNROLL for (int m = 0; m < MT; m++)
        UNROLL for (int n = 0; n < SUB / 8; n++)
          UNROLL for (int e = 0; e < 4; e++) {
            const int column = sub + 8 * n + 2 * (lane & 3) + (e & 1);
            const float capped = CAP ? tanh_fast(s[m][n][e] * inner) : 0.0f;
            s[m][n][e] = exp2_fast((CAP ? outer * capped : s[m][n][e] * unit) - log_sum[column]);
            if (WANT_K) dp[m][n][e] = s[m][n][e] * (dp[m][n][e] - delta[column]) * (CAP ? 1.0f - capped * capped : 1.0f);
          }
      if (!reach.whole(t0 + sub, t0 + sub + SUB)) {
        UNROLL for (int m = 0; m < MT; m++)
          UNROLL for (int h = 0; h < 2; h++) {
            const Span seen = queries_of(row0 + 16 * m + 8 * h + (lane >> 2), tokens, start, end, window, causal);
            if (WANT_V) hide<SUB / 8>(s[m], h, seen, t0 + sub, 0.0f);
            if (WANT_K) hide<SUB / 8>(dp[m], h, seen, t0 + sub, 0.0f);
          }
      }
      UNROLL for (int kk = 0; kk < SUB / 16; kk++) {
        Frag p[MT], ds[MT];
        UNROLL for (int m = 0; m < MT; m++) {
          if (WANT_V) p[m] = as_left(s[m][2 * kk], s[m][2 * kk + 1]);
          if (WANT_K) ds[m] = as_left(dp[m][2 * kk], dp[m][2 * kk + 1]);
        }
        UNROLL for (int n = 0; n < D / 16; n++) {
          if (WANT_V) {
            const Frag b = right_cols(grad_cols, sub + 16 * kk, 16 * n);
            UNROLL for (int m = 0; m < MT; m++) mma2(out_v[m][2 * n], out_v[m][2 * n + 1], p[m], b);
          }
          if (WANT_K) {
            const Frag c = right_cols(query_cols, sub + 16 * kk, 16 * n);
            UNROLL for (int m = 0; m < MT; m++) mma2(out_k[m][2 * n], out_k[m][2 * n + 1], ds[m], c);
          }
        }
      }
    }
    if (STAGES == 1 && next) {
      __syncthreads();
      load(next_head, next_t0, stage);
      commit();
    }
    head = next_head, t0 = next_t0;
    if (STAGES > 1) stage ^= 1;
  }
  wait();
  __syncthreads();
  float factor[MT][2];
  T* part = memory + 16 * MT * warp * PITCH;
  if (WANT_K) {
    UNROLL for (int m = 0; m < MT; m++) factor[m][0] = factor[m][1] = scale;
    store_rows(part, out_k, factor, dk + kv * D, kv_width, row0, tokens);
  }
  if (WANT_V) {
    UNROLL for (int m = 0; m < MT; m++) factor[m][0] = factor[m][1] = 1.0f;
    store_rows(part, out_v, factor, dv + kv * D, kv_width, row0, tokens);
  }
}
