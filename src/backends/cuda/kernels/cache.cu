// Keys and values kept for decoding. T: type of activations; C: type of the cache.
KERNEL kv_write(i64 d, i64 capacity, const T* x, const int* slots, C* cache) {
  const i64 slot = slots[blockIdx.x];
  if (slot < 0 || slot >= capacity) return;
  for (i64 j = threadIdx.x; j < d; j += blockDim.x) cache[slot * d + j] = from_float<C>(to_float(x[blockIdx.x * d + j]));
}

// Attention of one new token and one query head (a block) over the first `length` rows of its sequence: each warp takes
// every WARPS-th run of 32 keys, a key a lane, and the warps' partial softmaxes are joined at the end. D: head size, at most 256.
#define WARPS 4
KERNEL attention_cached(int heads, int kv_heads, int D, const T* q, const C* keys, const C* values, int max_length,
                        i64 capacity, const int* rows, const int* lengths, float scale, int window, float softcap, T* o) {
  const int head = blockIdx.x, kv = head / (heads / kv_heads), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const i64 token = blockIdx.y, at = (token * heads + head) * D;
  __shared__ float query[256], partial[WARPS][256], maxima[WARPS], sums[WARPS];
  const int row = rows[token];
  int length = lengths[token];
  if (length > max_length) length = max_length;
  if (row < 0 || length <= 0 || (i64)(row + 1) * max_length > capacity) {
    for (int j = threadIdx.x; j < D; j += blockDim.x) o[at + j] = from_float<T>(0.0f);
    return;
  }
  for (int j = threadIdx.x; j < D; j += blockDim.x) query[j] = to_float(q[at + j]) * scale;
  __syncthreads();
  const i64 width = (i64)kv_heads * D, base = (i64)row * max_length;
  const int from = window > 0 && length > window ? length - window : 0;
  float max = -INF, sum = 0.0f, acc[8] = {};
  for (int start = from + 32 * warp; start < length; start += 32 * WARPS) {
    const int s = start + lane;
    float logit = -INF;
    if (s < length) {
      const C* key = keys + (base + s) * width + kv * D;
      float dot = 0.0f;
      for (int j = 0; j < D; j++) dot += query[j] * to_float(key[j]);
      logit = softcap > 0.0f ? softcap * tanhf(dot / softcap) : dot;
    }
    const float higher = fmaxf(max, warp_max(logit)), shrink = expf(max - higher), p = s < length ? expf(logit - higher) : 0.0f;
    sum = sum * shrink + warp_sum(p), max = higher;
#pragma unroll
    for (int u = 0; u < 8; u++) acc[u] *= shrink;
    const int count = length - start < 32 ? length - start : 32;
    for (int k = 0; k < count; k++) {
      const float weight = __shfl_sync(FULL_WARP, p, k);
      const C* value = values + (base + start + k) * width + kv * D;
#pragma unroll
      for (int u = 0; u < 8; u++) {
        const int j = lane + 32 * u;
        if (j < D) acc[u] += weight * to_float(value[j]);
      }
    }
  }
  if (lane == 0) maxima[warp] = max, sums[warp] = sum;
#pragma unroll
  for (int u = 0; u < 8; u++) if (lane + 32 * u < D) partial[warp][lane + 32 * u] = acc[u];
  __syncthreads();
  float top = -INF, total = 0.0f;
  for (int w = 0; w < WARPS; w++) top = fmaxf(top, maxima[w]);
  for (int w = 0; w < WARPS; w++) total += sums[w] * expf(maxima[w] - top);
  for (int j = threadIdx.x; j < D; j += blockDim.x) {
    float x = 0.0f;
    for (int w = 0; w < WARPS; w++) x += partial[w][j] * expf(maxima[w] - top);
    o[at + j] = from_float<T>(x / total);
  }
}
