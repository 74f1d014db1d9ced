// The next token of each row of logits: a block a row. Cut-offs (top-k, top-p) are found among the floats as ordered integers,
// eight bits at a time, so nothing is sorted; masses are added as fixed-point integers, which gives the same sum in any order.
// The draw is the largest of logit + Gumbel noise over what is left (the CPU's numbers but for rounding: sampling.inc).
#define MASS_ONE 17592186044416.0f  // 2^44: a vocabulary of 2^19 tokens of equal probability still fits

DEVICE u32 ordered(float x) {
  const u32 b = __float_as_uint(x);
  return b & 0x80000000u ? ~b : b | 0x80000000u;
}

// Philox-4x32-10 (Salmon et al. 2011).
DEVICE void philox(u32 c[4], u32 k0, u32 k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u32 hi0 = __umulhi(0xD2511F53u, c[0]), lo0 = 0xD2511F53u * c[0];
    const u32 hi1 = __umulhi(0xCD9E8D57u, c[2]), lo1 = 0xCD9E8D57u * c[2];
    const u32 next[4] = {hi1 ^ c[1] ^ k0, lo1, hi0 ^ c[3] ^ k1, lo0};
#pragma unroll
    for (int i = 0; i < 4; i++) c[i] = next[i];
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
}

struct Row {
  const float* logits;
  const u32* seen;  // 0: no penalty
  int vocab;
  float inverse, penalty;
  DEVICE float score(int i) const {
    const float x = logits[i];
    const bool known = seen && (seen[i >> 5] >> (i & 31) & 1);
    return (!known ? x : x < 0.0f ? x * penalty : x / penalty) * inverse;
  }
};

// The largest value over the block and the smallest index that has it, in all threads.
struct Best {
  float value;
  int index;
};
DEVICE Best better(Best a, Best b) { return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a; }
DEVICE Best block_best(Best x) {
  __shared__ Best part[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
#pragma unroll
  for (int d = 16; d > 0; d >>= 1)
    x = better(x, {__shfl_xor_sync(FULL_WARP, x.value, d), __shfl_xor_sync(FULL_WARP, x.index, d)});
  __syncthreads();
  if (lane == 0) part[warp] = x;
  __syncthreads();
  x = lane < warps ? part[lane] : Best{-INF, 0x7fffffff};
#pragma unroll
  for (int d = 16; d > 0; d >>= 1)
    x = better(x, {__shfl_xor_sync(FULL_WARP, x.value, d), __shfl_xor_sync(FULL_WARP, x.index, d)});
  return x;
}

DEVICE u64 mass_of(float z, float top) { return (u64)(expf(z - top) * MASS_ONE); }

// The largest threshold, of scores as ordered integers, that scores of weight `wanted` in all reach: weights are 1, or with
// `by_mass` exp(score − top). Scores below `edge` do not count.
DEVICE u32 threshold(const Row& row, u64 wanted, bool by_mass, float top, u32 edge) {
  __shared__ u64 bins[256], left;
  __shared__ u32 chosen;
  u32 found = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < row.vocab; i += blockDim.x) {
      const float z = row.score(i);
      const u32 key = ordered(z);
      if (key < edge || (u64)key >> (shift + 8) != (u64)found >> (shift + 8)) continue;
      atomicAdd(&bins[key >> shift & 255], by_mass ? mass_of(z, top) : 1ull);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = 255;
      for (; bin > 0 && bins[bin] < wanted; bin--) wanted -= bins[bin];
      chosen = bin, left = wanted;
    }
    __syncthreads();
    found |= chosen << shift, wanted = left;
    __syncthreads();
  }
  return found;
}

DEVICE int draw(const Row& row, float top, int k, float p, float least, const u32* draws) {
  u32 edge = 0;
  if (k > 0 && k < row.vocab) edge = threshold(row, k, false, top, 0);
  if (p < 1.0f) {
    __shared__ u64 total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    u64 mine = 0;
    for (int i = threadIdx.x; i < row.vocab; i += blockDim.x) {
      const float z = row.score(i);
      if (ordered(z) >= edge) mine += mass_of(z, top);
    }
    atomicAdd(&total, mine);
    __syncthreads();
    edge = threshold(row, (u64)((double)p * (double)total), true, top, edge);
  }
  if (least > 0.0f) {
    const u32 floor = ordered(top + logf(least));
    if (floor > edge) edge = floor;
  }
  Best best = {-INF, 0x7fffffff};
  for (int group = threadIdx.x; group < (row.vocab + 3) / 4; group += blockDim.x) {
    u32 c[4] = {(u32)group, 0, draws[2], draws[3]};
    philox(c, draws[0], draws[1]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int token = 4 * group + i;
      if (token >= row.vocab) break;
      const float z = row.score(token);
      if (ordered(z) < edge) continue;
      const float v = fminf(((float)c[i] + 0.5f) * 2.3283064365386963e-10f, 0.99999994f);
      best = better(best, {z - logf(-log1pf(-v)), token});
    }
  }
  best = block_best(best);
  return best.index < row.vocab ? best.index : 0;
}

KERNEL sample(int n, int vocab, const float* logits, const float* settings, const u32* draws, const int* rows, u32* seen,
              int known, int* tokens, float* log_probs) {
  start_next();
  wait_for_previous();
  const int i = blockIdx.x, words = (vocab + 31) / 32;
  if (rows[i] < 0) {
    if (threadIdx.x == 0) tokens[i] = 0, log_probs[i] = 0.0f;
    return;
  }
  u32* mine = seen && rows[i] < known ? seen + (i64)rows[i] * words : nullptr;
  const Row row = {logits + (i64)i * vocab, mine, vocab, settings[0] > 0.0f ? 1.0f / settings[0] : 1.0f, settings[4]};
  Best top = {-INF, 0x7fffffff};
  // For the log-probability, without the penalty.
  float highest = -INF, total = 0.0f;
  for (int j = threadIdx.x; j < vocab; j += blockDim.x) {
    const float plain = row.logits[j] * row.inverse;
    const float higher = fmaxf(highest, plain);
    if (higher > -INF) total = total * expf(highest - higher) + expf(plain - higher);
    highest = higher;
    top = better(top, {mine ? row.score(j) : plain, j});
  }
  top = block_best(top);
  const float all = block_max(highest);
  total = block_sum(highest == -INF ? 0.0f : total * expf(highest - all));
  int token = top.index < vocab ? top.index : 0;
  if (settings[0] > 0.0f) token = draw(row, top.value, (int)settings[1], settings[2], settings[3], draws + 4 * i);
  __syncthreads();
  if (threadIdx.x == 0) {
    tokens[i] = token;
    log_probs[i] = row.logits[token] * row.inverse - all - logf(total);
    if (mine) mine[token >> 5] |= 1u << (token & 31);
  }
}
