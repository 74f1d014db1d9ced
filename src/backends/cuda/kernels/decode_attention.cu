// Attention of new tokens against cached keys and values (flash-decoding: Dao et al. 2023). T: type of activations; C: type of
// the cache; D: head size, at most 256; G: query heads of one key/value head that a block takes together, at most 8.
//
// A key is read by LANES neighbouring lanes, eight elements each, for all G heads at once. Every group of lanes has its own
// keys and its own running maximum and sum; these are joined at the end. Where there are few tokens the keys of a token are
// cut into `splits` runs of which each is a block's; `attention_join` then adds them up.
#define WARPS 4
#define LANES (D <= 8 ? 1 : D <= 16 ? 2 : D <= 32 ? 4 : D <= 64 ? 8 : D <= 128 ? 16 : 32)
#define KEYS (32 / LANES)
#define AT_ONCE (sizeof(C) == 4 || G > 4 ? 2 : 4)
#define SHORTEST 64
#define LOG2E 1.4426950408889634f

// Keys of one run when `count` keys are cut into at most `splits`.
DEVICE int run_of(int count, int splits) {
  const int run = (count + splits - 1) / splits;
  return run < SHORTEST ? SHORTEST : (run + 31) / 32 * 32;
}

// Elements 8·part to 8·part + 7 of a head, zeros past its end.
template <class X> DEVICE Pack<X, 8> load_part(const X* head, int part) {
  Pack<X, 8> y = {};
  if (D % 8 == 0) {
    if (8 * part < D) y = load_pack<8>(head + 8 * part);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (8 * part + i < D) y.v[i] = head[8 * part + i];
  }
  return y;
}

struct Visible {
  int from, to;
  i64 base;
};
DEVICE Visible visible_to(int token, int max_length, i64 capacity, const int* rows, const int* lengths, int window) {
  const int row = rows[token];
  int length = lengths[token];
  if (length > max_length) length = max_length;
  if (row < 0 || length <= 0 || (i64)(row + 1) * max_length > capacity) return {0, 0, 0};
  return {window > 0 && length > window ? length - window : 0, length, (i64)row * max_length};
}

// partial: [tokens, heads, splits, D + 2] f32: a run's weighted sum of values, its maximum (in units of log2) and sum.
KERNEL attention_cached(int heads, int kv_heads, const T* q, const C* keys, const C* values, int max_length, i64 capacity,
                        const int* rows, const int* lengths, float scale, int window, float softcap, int splits, float* partial,
                        T* o) {
  __shared__ float outputs[WARPS][G][D], maxima[WARPS][G], totals[WARPS][G];
  start_next();
  wait_for_previous();
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, part = lane % LANES, stream = lane / LANES;
  const int token = blockIdx.y, split = blockIdx.z, first = G * blockIdx.x, kv = first / (heads / kv_heads);
  const Visible see = visible_to(token, max_length, capacity, rows, lengths, window);
  const int run = splits > 1 ? run_of(see.to - see.from, splits) : see.to - see.from;
  const int begin = see.from + split * run, end = begin + run < see.to ? begin + run : see.to;
  if (begin >= end && split > 0) return;
  float query[G][8], out[G][8] = {}, max[G], sum[G] = {};
#pragma unroll
  for (int g = 0; g < G; g++) {
    max[g] = -INF;
    const Pack<T, 8> x = load_part(q + ((i64)token * heads + first + g) * D, part);
#pragma unroll
    for (int i = 0; i < 8; i++) query[g][i] = to_float(x.v[i]) * scale * (softcap > 0.0f ? 1.0f : LOG2E);
  }
  const i64 width = (i64)kv_heads * D;
  const C *k0 = keys + see.base * width + kv * D, *v0 = values + see.base * width + kv * D;
  for (int from = begin + warp * KEYS * AT_ONCE + stream; from - stream < end; from += WARPS * KEYS * AT_ONCE) {
    Pack<C, 8> k[AT_ONCE], v[AT_ONCE];
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      const int s = from + u * KEYS < end ? from + u * KEYS : end - 1;
      k[u] = load_part(k0 + s * width, part);
      v[u] = load_part(v0 + s * width, part);
    }
    float logit[AT_ONCE][G];
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++)
#pragma unroll
      for (int g = 0; g < G; g++) {
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) dot += query[g][i] * to_float(k[u].v[i]);
        logit[u][g] = dot;
      }
#pragma unroll
    for (int d = LANES / 2; d > 0; d >>= 1)
#pragma unroll
      for (int u = 0; u < AT_ONCE; u++)
#pragma unroll
        for (int g = 0; g < G; g++) logit[u][g] += __shfl_xor_sync(FULL_WARP, logit[u][g], d);
#pragma unroll
    for (int g = 0; g < G; g++) {
      float higher = max[g];
#pragma unroll
      for (int u = 0; u < AT_ONCE; u++) {
        if (softcap > 0.0f) logit[u][g] = LOG2E * softcap * tanhf(logit[u][g] / softcap);
        if (from + u * KEYS >= end) logit[u][g] = -INF;
        higher = fmaxf(higher, logit[u][g]);
      }
      if (higher == -INF) continue;
      const float shrink = exp2f(max[g] - higher);
      max[g] = higher, sum[g] *= shrink;
#pragma unroll
      for (int i = 0; i < 8; i++) out[g][i] *= shrink;
#pragma unroll
      for (int u = 0; u < AT_ONCE; u++) {
        const float p = exp2f(logit[u][g] - higher);
        sum[g] += p;
#pragma unroll
        for (int i = 0; i < 8; i++) out[g][i] += p * to_float(v[u].v[i]);
      }
    }
  }
  // Streams of the warp, then warps.
#pragma unroll
  for (int g = 0; g < G; g++) {
    float top = max[g];
#pragma unroll
    for (int d = 16; d >= LANES; d >>= 1) top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, d));
    const float shrink = max[g] == -INF ? 0.0f : exp2f(max[g] - top);
    sum[g] *= shrink;
#pragma unroll
    for (int d = 16; d >= LANES; d >>= 1) sum[g] += __shfl_xor_sync(FULL_WARP, sum[g], d);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      out[g][i] *= shrink;
#pragma unroll
      for (int d = 16; d >= LANES; d >>= 1) out[g][i] += __shfl_xor_sync(FULL_WARP, out[g][i], d);
      if (stream == 0 && 8 * part + i < D) outputs[warp][g][8 * part + i] = out[g][i];
    }
    if (lane == 0) maxima[warp][g] = top, totals[warp][g] = sum[g];
  }
  __syncthreads();
  for (int e = threadIdx.x; e < G * D; e += 32 * WARPS) {
    const int g = e / D, j = e % D;
    float top = -INF, total = 0.0f, y = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, maxima[w][g]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float shrink = maxima[w][g] == -INF ? 0.0f : exp2f(maxima[w][g] - top);
      total += totals[w][g] * shrink, y += outputs[w][g][j] * shrink;
    }
    const i64 head = (i64)token * heads + first + g;
    if (splits == 1) {
      o[head * D + j] = from_float<T>(total > 0.0f ? y / total : 0.0f);
    } else {
      float* to = partial + (head * splits + split) * (D + 2);
      to[j] = y;
      if (j == 0) to[D] = top, to[D + 1] = total;
    }
  }
}

// o of one token (blockIdx.y) and head (blockIdx.x) from its runs.
KERNEL attention_join(int heads, int max_length, i64 capacity, const int* rows, const int* lengths, int window, int splits,
                      const float* partial, T* o) {
  start_next();
  wait_for_previous();
  const Visible see = visible_to(blockIdx.y, max_length, capacity, rows, lengths, window);
  const int count = see.to - see.from, run = run_of(count, splits), runs = (count + run - 1) / run;
  const i64 head = (i64)blockIdx.y * heads + blockIdx.x;
  const float* from = partial + head * splits * (D + 2);
  for (int j = threadIdx.x; j < D; j += blockDim.x) {
    float top = -INF, total = 0.0f, y = 0.0f;
    for (int s = 0; s < runs; s++) top = fmaxf(top, from[s * (D + 2) + D]);
    for (int s = 0; s < runs; s++) {
      const float shrink = exp2f(from[s * (D + 2) + D] - top);
      total += from[s * (D + 2) + D + 1] * shrink, y += from[s * (D + 2) + j] * shrink;
    }
    o[head * D + j] = from_float<T>(total > 0.0f ? y / total : 0.0f);
  }
}
