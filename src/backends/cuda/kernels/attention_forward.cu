// Attention over packed sequences on the tensor cores (Dao 2023): a block takes BM queries of a head past tiles of BN keys, a
// warp 16·MT of them, with the running maximum and sum of its rows; see attention_tiles.cuh for the names.
#include "attention_tiles.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) attention(ATTENTION_ARGUMENTS, T* o, float* lse) {
  extern __shared__ __align__(16) u8 raw[];
  T *memory = (T*)raw, *key_tiles = memory + BM * PITCH, *value_tiles = key_tiles + STAGES * BN * PITCH;
  const int head = blockIdx.y, kv = head / (heads / kv_heads), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  // Later queries see more keys and go first: the longest blocks must not be the last to start.
  const int t0 = (int)(gridDim.x - 1 - blockIdx.x) * BM, row0 = t0 + 16 * MT * warp;
  const i64 q_width = (i64)heads * D, kv_width = (i64)kv_heads * D;
  const T *keys = k + kv * D, *values = v + kv * D;
  const bool exists = lane < 16 * MT && row0 + lane < tokens;
  const Reach reach = warp_reach(exists ? keys_of(row0 + lane, tokens, start, end, window, causal) : Span{0, 0}, exists);
  const Span all = block_span(reach);
  const int first = all.from / BN * BN, tiles = (all.to - first + BN - 1) / BN;

  load_tile<BM>(memory, q + (i64)head * D, q_width, t0, tokens);
  if (tiles > 0) {
    load_tile<BN>(key_tiles, keys, kv_width, first, tokens);
    if (STAGES > 1) load_tile<BN>(value_tiles, values, kv_width, first, tokens);
  }
  commit();
  const T* query = memory + 16 * MT * warp * PITCH + left_place();
  const float unit = CAP ? 1.0f : scale * LOG2E;  // what turns a stored logit into one of base 2
  float out[MT][D / 8][4] = {}, max[MT][2], sum[MT][2];
  UNROLL for (int m = 0; m < MT; m++) max[m][0] = max[m][1] = -INF, sum[m][0] = sum[m][1] = 0.0f;

  for (int i = 0; i < tiles; i++) {
    const int s0 = first + i * BN, at = STAGES > 1 ? (i & 1) * BN * PITCH : 0, next = STAGES > 1 ? BN * PITCH - at : 0;
    const bool idle = reach.none(s0, s0 + BN);
    wait();
    __syncthreads();
    if (STAGES == 1) load_tile<BN>(value_tiles, values, kv_width, s0, tokens);
    else if (i + 1 < tiles) {
      load_tile<BN>(key_tiles + next, keys, kv_width, s0 + BN, tokens);
      load_tile<BN>(value_tiles + next, values, kv_width, s0 + BN, tokens);
    }
    commit();
    float s[MT][BN / 8][4] = {};
    if (!idle) {
      const T* key_tile = key_tiles + at + right_place();
      UNROLL for (int d = 0; d < D / 16; d++) {
        Frag a[MT];
        UNROLL for (int m = 0; m < MT; m++) a[m] = left(query, 16 * m, 16 * d);
        UNROLL for (int n = 0; n < BN / 16; n++) {
          const Frag b = right_rows(key_tile, 16 * n, 16 * d);
          UNROLL for (int m = 0; m < MT; m++) mma2(s[m][2 * n], s[m][2 * n + 1], a[m], b);
        }
      }
    }
    if (STAGES == 1) {
      wait();
      __syncthreads();
      if (i + 1 < tiles) load_tile<BN>(key_tiles, keys, kv_width, s0 + BN, tokens);
      commit();
    }
    if (idle) continue;
    if (CAP) {
      const float inner = scale / softcap, outer = softcap * LOG2E;
      UNROLL for (int m = 0; m < MT; m++)
        UNROLL for (int n = 0; n < BN / 8; n++)
          UNROLL for (int e = 0; e < 4; e++) s[m][n][e] = outer * tanh_fast(s[m][n][e] * inner);
    }
    if (!reach.whole(s0, s0 + BN)) {
      UNROLL for (int m = 0; m < MT; m++)
        UNROLL for (int h = 0; h < 2; h++)
          hide<BN / 8>(s[m], h, keys_of(row0 + 16 * m + 8 * h + (lane >> 2), tokens, start, end, window, causal), s0, -INF);
    }
    UNROLL for (int m = 0; m < MT; m++) {
      float base[2];
      bool moved = false;
      UNROLL for (int h = 0; h < 2; h++) {
        float top = max[m][h];
        UNROLL for (int n = 0; n < BN / 8; n++) top = fmaxf(top, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
        base[h] = top == -INF ? 0.0f : top * unit;
        moved |= top != max[m][h];
        const float shrink = exp2_fast(max[m][h] * unit - base[h]);
        sum[m][h] *= shrink, max[m][h] = top;
        if (__any_sync(FULL_WARP, moved))
          UNROLL for (int n = 0; n < D / 8; n++) out[m][n][2 * h] *= shrink, out[m][n][2 * h + 1] *= shrink;
      }
      UNROLL for (int n = 0; n < BN / 8; n++)
        UNROLL for (int e = 0; e < 4; e++) {
          s[m][n][e] = exp2_fast(s[m][n][e] * unit - base[e >> 1]);
          sum[m][e >> 1] += s[m][n][e];
        }
    }
    const T* value_tile = value_tiles + at + left_place();
    UNROLL for (int kk = 0; kk < BN / 16; kk++) {
      Frag p[MT];
      UNROLL for (int m = 0; m < MT; m++) p[m] = as_left(s[m][2 * kk], s[m][2 * kk + 1]);
      UNROLL for (int n = 0; n < D / 16; n++) {
        const Frag b = right_cols(value_tile, 16 * kk, 16 * n);
        UNROLL for (int m = 0; m < MT; m++) mma2(out[m][2 * n], out[m][2 * n + 1], p[m], b);
      }
    }
  }
  wait();
  __syncthreads();
  float inverse[MT][2];
  UNROLL for (int m = 0; m < MT; m++)
    UNROLL for (int h = 0; h < 2; h++) {
      float total = sum[m][h];
      total += __shfl_xor_sync(FULL_WARP, total, 1);
      total += __shfl_xor_sync(FULL_WARP, total, 2);
      inverse[m][h] = total > 0.0f ? 1.0f / total : 0.0f;
      const int row = row0 + 16 * m + 8 * h + (lane >> 2);
      if ((lane & 3) == 0 && row < tokens)
        lse[(i64)head * tokens + row] = total > 0.0f ? (max[m][h] * unit + log2f(total)) / LOG2E : -INF;
    }
  store_rows(memory + 16 * MT * warp * PITCH, out, inverse, o + (i64)head * D, q_width, row0, tokens);
}
