// dq of attention on the tensor cores: a block takes BM queries of a head past the tiles of keys and values that they see.
// REGS: a warp keeps its queries and their output gradients in registers, else in shared memory. SUB: keys at a time.
#include "attention_tiles.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
attention_grad_q(ATTENTION_ARGUMENTS, const float* stats, const T* dout, T* dq) {
  extern __shared__ __align__(16) u8 raw[];
  T *memory = (T*)raw, *query_tile = memory, *grad_tile = memory + BM * PITCH;
  T *key_tiles = memory + (REGS ? 0 : 2 * BM * PITCH), *value_tiles = key_tiles + STAGES * BN * PITCH;
  const int head = blockIdx.y, kv = head / (heads / kv_heads), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int t0 = (int)(gridDim.x - 1 - blockIdx.x) * BM, row0 = t0 + 16 * MT * warp;
  const i64 q_width = (i64)heads * D, kv_width = (i64)kv_heads * D;
  const T *keys = k + kv * D, *values = v + kv * D;
  const bool exists = lane < 16 * MT && row0 + lane < tokens;
  const Reach reach = warp_reach(exists ? keys_of(row0 + lane, tokens, start, end, window, causal) : Span{0, 0}, exists);
  const Span all = block_span(reach);
  const int first = all.from / BN * BN, tiles = (all.to - first + BN - 1) / BN;

  load_tile<BM>(query_tile, q + (i64)head * D, q_width, t0, tokens);
  load_tile<BM>(grad_tile, dout + (i64)head * D, q_width, t0, tokens);
  commit();
  float log_sum[MT][2], delta[MT][2];
  UNROLL for (int m = 0; m < MT; m++)
    UNROLL for (int h = 0; h < 2; h++) {
      const int row = row0 + 16 * m + 8 * h + (lane >> 2);
      load_stats(stats, head, heads, row, tokens, log_sum[m][h], delta[m][h]);
    }
  const T *query = query_tile + 16 * MT * warp * PITCH + left_place(), *grad = grad_tile + 16 * MT * warp * PITCH + left_place();
  constexpr int KEPT = REGS ? D / 16 : 1;
  Frag kept_query[MT][KEPT], kept_grad[MT][KEPT];
  if (REGS) {
    wait();
    __syncthreads();
    UNROLL for (int m = 0; m < MT; m++)
      UNROLL for (int d = 0; d < KEPT; d++) {
        kept_query[m][d] = left(query, 16 * m, 16 * d);
        kept_grad[m][d] = left(grad, 16 * m, 16 * d);
      }
    __syncthreads();
  }
  if (tiles > 0) {
    load_tile<BN>(key_tiles, keys, kv_width, first, tokens);
    load_tile<BN>(value_tiles, values, kv_width, first, tokens);
  }
  commit();
  const float unit = scale * LOG2E, inner = CAP ? scale / softcap : 0.0f, outer = softcap * LOG2E;
  float out[MT][D / 8][4] = {};
  for (int i = 0; i < tiles; i++) {
    const int s0 = first + i * BN, at = STAGES > 1 ? (i & 1) * BN * PITCH : 0, next = STAGES > 1 ? BN * PITCH - at : 0;
    wait();
    __syncthreads();
    if (STAGES > 1 && i + 1 < tiles) {
      load_tile<BN>(key_tiles + next, keys, kv_width, s0 + BN, tokens);
      load_tile<BN>(value_tiles + next, values, kv_width, s0 + BN, tokens);
    }
    commit();
    const T *key_rows = key_tiles + at + right_place(), *value_rows = value_tiles + at + right_place();
    const T* key_cols = key_tiles + at + left_place();
    UNROLL for (int sub = 0; sub < BN; sub += SUB) {
      if (reach.none(s0 + sub, s0 + sub + SUB)) continue;
      float s[MT][SUB / 8][4] = {}, dp[MT][SUB / 8][4] = {};
      UNROLL for (int d = 0; d < D / 16; d++) {
        Frag a[MT], g[MT];
        UNROLL for (int m = 0; m < MT; m++) {
          a[m] = REGS ? kept_query[m][REGS ? d : 0] : left(query, 16 * m, 16 * d);
          g[m] = REGS ? kept_grad[m][REGS ? d : 0] : left(grad, 16 * m, 16 * d);
        }
        UNROLL for (int n = 0; n < SUB / 16; n++) {
          const Frag b = right_rows(key_rows, sub + 16 * n, 16 * d), w = right_rows(value_rows, sub + 16 * n, 16 * d);
          UNROLL for (int m = 0; m < MT; m++) {
            mma2(s[m][2 * n], s[m][2 * n + 1], a[m], b);
            mma2(dp[m][2 * n], dp[m][2 * n + 1], g[m], w);
          }
        }
      }
      UNROLL for (int m = 0; m < MT; m++)
        UNROLL for (int n = 0; n < SUB / 8; n++)
          UNROLL for (int e = 0; e < 4; e++) {
            const float capped = CAP ? tanh_fast(s[m][n][e] * inner) : 0.0f;
            const float p = exp2_fast((CAP ? outer * capped : s[m][n][e] * unit) - log_sum[m][e >> 1]);
            s[m][n][e] = p * (dp[m][n][e] - delta[m][e >> 1]) * (CAP ? 1.0f - capped * capped : 1.0f);
          }
      if (!reach.whole(s0 + sub, s0 + sub + SUB)) {
        UNROLL for (int m = 0; m < MT; m++)
          UNROLL for (int h = 0; h < 2; h++)
            hide<SUB / 8>(s[m], h, keys_of(row0 + 16 * m + 8 * h + (lane >> 2), tokens, start, end, window, causal), s0 + sub, 0.0f);
      }
      UNROLL for (int kk = 0; kk < SUB / 16; kk++) {
        Frag ds[MT];
        UNROLL for (int m = 0; m < MT; m++) ds[m] = as_left(s[m][2 * kk], s[m][2 * kk + 1]);
        UNROLL for (int n = 0; n < D / 16; n++) {
          const Frag b = right_cols(key_cols, sub + 16 * kk, 16 * n);
          UNROLL for (int m = 0; m < MT; m++) mma2(out[m][2 * n], out[m][2 * n + 1], ds[m], b);
        }
      }
    }
    if (STAGES == 1 && i + 1 < tiles) {
      __syncthreads();
      load_tile<BN>(key_tiles, keys, kv_width, s0 + BN, tokens);
      load_tile<BN>(value_tiles, values, kv_width, s0 + BN, tokens);
      commit();
    }
  }
  wait();
  __syncthreads();
  float factor[MT][2];
  UNROLL for (int m = 0; m < MT; m++) factor[m][0] = factor[m][1] = scale;
  store_rows(memory + 16 * MT * warp * PITCH, out, factor, dq + (i64)head * D, q_width, row0, tokens);
}
