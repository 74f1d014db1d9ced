// Attention over packed sequences in f32 arithmetic, for every head size up to 256 and every type: a warp a query forward and
// for dq, a warp a key for dk and dv. Lanes take keys (or queries) for the products over D, and dims for the sums over
// tokens. T: type of q, k, v, o; DP: D rounded up to 32. attention_forward.cu and
// attention_grad_*.cu take over where the tensor cores can be used.
#define WARPS (DP > 128 ? 4 : 8)
#define DIMS (DP / 32)

struct Span { int from, to; };
// Keys that query t sees.
DEVICE Span keys_of(int t, int tokens, const int* start, const int* end, int window, int causal) {
  int from = start[t] > 0 ? start[t] : 0, to = causal ? t + 1 : end[t];
  if (window > 0 && t - window + 1 > from) from = t - window + 1;
  if (to > tokens) to = tokens;
  return {from, to > from ? to : from};
}
// A logit after the soft cap, and the derivative of the cap there.
DEVICE float cap(float x, float softcap) { return softcap > 0.0f ? softcap * tanhf(x / softcap) : x; }
DEVICE float cap_slope(float capped, float softcap) {
  return softcap > 0.0f ? 1.0f - (capped / softcap) * (capped / softcap) : 1.0f;
}
// 32 rows of a [tokens, width] array into shared memory, one padding word a row; rows past `to` are zeros.
DEVICE void load_rows(float (*tile)[DP + 1], const T* x, i64 width, int D, int from, int to) {
  for (int i = threadIdx.x; i < 32 * DP; i += blockDim.x) {
    const int r = i / DP, j = i % DP;
    tile[r][j] = from + r < to && j < D ? to_float(x[(i64)(from + r) * width + j]) : 0.0f;
  }
}
// The tokens that any of the block's warps needs.
DEVICE Span join(Span mine) {
  __shared__ int low, high;
  __syncthreads();
  if (threadIdx.x == 0) low = 0x7fffffff, high = 0;
  __syncthreads();
  if ((threadIdx.x & 31) == 0 && mine.to > mine.from) atomicMin(&low, mine.from), atomicMax(&high, mine.to);
  __syncthreads();
  return {low < high ? low : 0, low < high ? high : 0};
}

#define ATTENTION_ARGUMENTS                                                                                             \
  int tokens, int heads, int kv_heads, int D, const T *q, const T *k, const T *v, const int *start, const int *end, float scale, \
      int window, float softcap, int causal

KERNEL attention(ATTENTION_ARGUMENTS, T* o, float* lse) {
  __shared__ float key_tile[32][DP + 1], query[WARPS][DP];
  const int head = blockIdx.y, kv = head / (heads / kv_heads), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int t = blockIdx.x * WARPS + warp;
  const i64 q_width = (i64)heads * D, kv_width = (i64)kv_heads * D;
  const Span mine = t < tokens ? keys_of(t, tokens, start, end, window, causal) : Span{0, 0}, all = join(mine);
  for (int j = lane; j < DP; j += 32) query[warp][j] = t < tokens && j < D ? to_float(q[t * q_width + head * D + j]) * scale : 0.0f;
  float max = -INF, sum = 0.0f, acc[DIMS] = {};
  for (int s0 = all.from; s0 < all.to; s0 += 32) {
    __syncthreads();
    load_rows(key_tile, k + kv * D, kv_width, D, s0, all.to);
    __syncthreads();
    if (s0 >= mine.to || s0 + 32 <= mine.from) continue;
    const int s = s0 + lane;
    const bool seen = s >= mine.from && s < mine.to;
    float dot = 0.0f;
    for (int j = 0; j < D; j++) dot += query[warp][j] * key_tile[lane][j];
    const float logit = seen ? cap(dot, softcap) : -INF;
    const float higher = fmaxf(max, warp_max(logit)), shrink = expf(max - higher), p = seen ? expf(logit - higher) : 0.0f;
    sum = sum * shrink + warp_sum(p), max = higher;
#pragma unroll
    for (int u = 0; u < DIMS; u++) acc[u] *= shrink;
    for (int r = 0; r < 32 && s0 + r < mine.to; r++) {
      const float weight = __shfl_sync(FULL_WARP, p, r);
      const T* value = v + (s0 + r) * kv_width + kv * D;
#pragma unroll
      for (int u = 0; u < DIMS; u++) if (lane + 32 * u < D) acc[u] += weight * to_float(value[lane + 32 * u]);
    }
  }
  if (t >= tokens) return;
#pragma unroll
  for (int u = 0; u < DIMS; u++)
    if (lane + 32 * u < D) o[t * q_width + head * D + lane + 32 * u] = from_float<T>(sum > 0.0f ? acc[u] / sum : 0.0f);
  if (lane == 0) lse[(i64)head * tokens + t] = sum > 0.0f ? max + logf(sum) : -INF;
}

// delta[head][t] = Σ_j do·o: what softmax's derivative subtracts. A warp a (token, head).
KERNEL attention_delta(int tokens, int heads, int D, const T* o, const T* dout, float* delta) {
  const i64 id = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x & 31;
  if (id >= (i64)tokens * heads) return;
  float sum = 0.0f;
  for (int j = lane; j < D; j += 32) sum += to_float(o[id * D + j]) * to_float(dout[id * D + j]);
  sum = warp_sum(sum);
  if (lane == 0) delta[(id % heads) * tokens + id / heads] = sum;
}

KERNEL attention_grad_q(ATTENTION_ARGUMENTS, const float* lse, const float* delta, const T* dout, T* dq) {
  __shared__ float tile[32][DP + 1], query[WARPS][DP], grad[WARPS][DP];
  const int head = blockIdx.y, kv = head / (heads / kv_heads), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int t = blockIdx.x * WARPS + warp;
  const i64 q_width = (i64)heads * D, kv_width = (i64)kv_heads * D;
  const Span mine = t < tokens ? keys_of(t, tokens, start, end, window, causal) : Span{0, 0}, all = join(mine);
  for (int j = lane; j < DP; j += 32) {
    const bool inside = t < tokens && j < D;
    query[warp][j] = inside ? to_float(q[t * q_width + head * D + j]) * scale : 0.0f;
    grad[warp][j] = inside ? to_float(dout[t * q_width + head * D + j]) : 0.0f;
  }
  const float log_sum = t < tokens ? lse[(i64)head * tokens + t] : 0.0f, d = t < tokens ? delta[(i64)head * tokens + t] : 0.0f;
  float acc[DIMS] = {};
  for (int s0 = all.from; s0 < all.to; s0 += 32) {
    __syncthreads();
    load_rows(tile, v + kv * D, kv_width, D, s0, all.to);
    __syncthreads();
    float dp = 0.0f, dot = 0.0f;
    for (int j = 0; j < D; j++) dp += grad[warp][j] * tile[lane][j];
    __syncthreads();
    load_rows(tile, k + kv * D, kv_width, D, s0, all.to);
    __syncthreads();
    for (int j = 0; j < D; j++) dot += query[warp][j] * tile[lane][j];
    const int s = s0 + lane;
    const float logit = cap(dot, softcap);
    const float ds = s >= mine.from && s < mine.to ? expf(logit - log_sum) * (dp - d) * cap_slope(logit, softcap) * scale : 0.0f;
    for (int r = 0; r < 32; r++) {
      const float weight = __shfl_sync(FULL_WARP, ds, r);
#pragma unroll
      for (int u = 0; u < DIMS; u++) acc[u] += weight * tile[r][lane + 32 * u];
    }
  }
  if (t >= tokens) return;
#pragma unroll
  for (int u = 0; u < DIMS; u++) if (lane + 32 * u < D) dq[t * q_width + head * D + lane + 32 * u] = from_float<T>(acc[u]);
}

// A warp a key of a key head; the query heads that share it are summed in order.
KERNEL attention_grad_kv(ATTENTION_ARGUMENTS, const float* lse, const float* delta, const T* dout, T* dk, T* dv) {
  __shared__ float tile[32][DP + 1], key[WARPS][DP], value[WARPS][DP];
  const int kv = blockIdx.y, group = heads / kv_heads, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int s = blockIdx.x * WARPS + warp;
  const i64 q_width = (i64)heads * D, kv_width = (i64)kv_heads * D;
  Span mine = {0, 0};
  if (s < tokens) {
    mine = {causal ? s : start[s] > 0 ? start[s] : 0, end[s] < tokens ? end[s] : tokens};
    if (window > 0 && causal && s + window < mine.to) mine.to = s + window;
  }
  const Span all = join(mine);
  for (int j = lane; j < DP; j += 32) {
    const bool inside = s < tokens && j < D;
    key[warp][j] = inside ? to_float(k[s * kv_width + kv * D + j]) * scale : 0.0f;
    value[warp][j] = inside ? to_float(v[s * kv_width + kv * D + j]) : 0.0f;
  }
  float acc_k[DIMS] = {}, acc_v[DIMS] = {};
  for (int g = 0; g < group; g++) {
    const int head = kv * group + g;
    for (int t0 = all.from; t0 < all.to; t0 += 32) {
      const int t = t0 + lane;
      bool sees = t >= mine.from && t < mine.to && s < tokens;
      if (sees) {
        const Span of = keys_of(t, tokens, start, end, window, causal);
        sees = s >= of.from && s < of.to;
      }
      __syncthreads();
      load_rows(tile, q + head * D, q_width, D, t0, all.to);
      __syncthreads();
      float dot = 0.0f, dp = 0.0f;
      for (int j = 0; j < D; j++) dot += key[warp][j] * tile[lane][j];
      const float logit = cap(dot, softcap), p = sees ? expf(logit - lse[(i64)head * tokens + t]) : 0.0f;
      __syncthreads();
      load_rows(tile, dout + head * D, q_width, D, t0, all.to);
      __syncthreads();
      for (int j = 0; j < D; j++) dp += value[warp][j] * tile[lane][j];
      for (int r = 0; r < 32; r++) {
        const float weight = __shfl_sync(FULL_WARP, p, r);
#pragma unroll
        for (int u = 0; u < DIMS; u++) acc_v[u] += weight * tile[r][lane + 32 * u];
      }
      const float ds = sees ? p * (dp - delta[(i64)head * tokens + t]) * cap_slope(logit, softcap) * scale : 0.0f;
      __syncthreads();
      load_rows(tile, q + head * D, q_width, D, t0, all.to);
      __syncthreads();
      for (int r = 0; r < 32; r++) {
        const float weight = __shfl_sync(FULL_WARP, ds, r);
#pragma unroll
        for (int u = 0; u < DIMS; u++) acc_k[u] += weight * tile[r][lane + 32 * u];
      }
    }
  }
  if (s >= tokens) return;
#pragma unroll
  for (int u = 0; u < DIMS; u++) {
    const int j = lane + 32 * u;
    if (j < D) dk[s * kv_width + kv * D + j] = from_float<T>(acc_k[u]), dv[s * kv_width + kv * D + j] = from_float<T>(acc_v[u]);
  }
}
