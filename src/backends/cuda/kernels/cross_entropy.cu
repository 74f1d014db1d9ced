// Softmax cross-entropy and log-probabilities of labels, one block a row of logits. T: type of the logits; D: type of their
// gradient; V elements a thread at a time: 16 bytes of logits where rows are aligned to that, else 1 (-DV).
DEVICE float capped(float x, float softcap) { return softcap > 0.0f ? softcap * tanhf(x / softcap) : x; }

struct RowStats { float max, sum, weighted, total; int best; };

// Of x = scale·capped(logit + bias), in one visit: the largest (the first on a tie), Σ e^(x−max), Σ e^(x−max)·x, Σ x.
DEVICE RowStats row_stats(i64 vocab, const T* x, const float* bias, float softcap, float scale) {
  float max = -INF, sum = 0.0f, weighted = 0.0f, total = 0.0f;
  int best = 0x7fffffff;
  for (i64 j = (i64)threadIdx.x * V; j < vocab; j += (i64)blockDim.x * V) {
    const Pack<T, V> p = load_pack<V>(x + j);
    float v[V], top = -INF;
#pragma unroll
    for (int k = 0; k < V; k++) {
      v[k] = j + k < vocab ? scale * capped(to_float(p.v[k]) + (bias ? bias[j + k] : 0.0f), softcap) : -INF;
      if (v[k] > max && v[k] > top) best = (int)j + k;
      top = fmaxf(top, v[k]);
    }
    if (top > max) {
      const float shrink = expf(max - top);
      sum *= shrink, weighted *= shrink, max = top;
    }
#pragma unroll
    for (int k = 0; k < V; k++) {
      if (j + k >= vocab) continue;
      const float e = expf(v[k] - max);
      sum += e, weighted += e * v[k], total += v[k];
    }
  }
  RowStats s;
  s.max = block_max(max);
  const float shrink = max == -INF ? 0.0f : expf(max - s.max);
  s.sum = block_sum(sum * shrink), s.weighted = block_sum(weighted * shrink), s.total = block_sum(total);
  s.best = (int)-block_max(max == s.max ? -(float)best : -INF);
  return s;
}

// dlogits = factor·(softmax − smoothing/V − (1 − smoothing)·[j = label])·d(x)/d(logit), over the logits themselves if need be:
// a stretch is written when all threads have read it, and gradients are no wider than logits.
DEVICE void row_gradient(i64 vocab, const T* x, const float* bias, float softcap, float scale, float log_sum, int label,
                         float smoothing, float factor, D* dlogits) {
  const float each = smoothing / vocab;
  for (i64 start = 0; start < vocab; start += (i64)blockDim.x * V) {
    const i64 j = start + (i64)threadIdx.x * V;
    Pack<T, V> p = {};
    if (j < vocab) p = load_pack<V>(x + j);
    __syncthreads();
    if (j >= vocab) continue;
    Pack<D, V> out;
#pragma unroll
    for (int k = 0; k < V; k++) {
      const float v = capped(to_float(p.v[k]) + (bias && j + k < vocab ? bias[j + k] : 0.0f), softcap);
      float g = expf(scale * v - log_sum) - each - (j + k == label ? 1.0f - smoothing : 0.0f);
      if (softcap > 0.0f) g *= 1.0f - (v / softcap) * (v / softcap);
      out.v[k] = from_float<D>(j + k < vocab ? factor * g : 0.0f);
    }
    store_pack<V>(dlogits + j, out);
  }
}

// Row r belongs to token rows[r] (r itself without `rows`); rows of no token or no label get zeros.
// stats[token] = {cross-entropy, correct, entropy, trained}; of the other outputs any may be 0 (not wanted). The gradient's
// factor is dlogp[token]·−scale where dlogp is given, else loss_scale·dloss. Lengths of rows: `pitch` of T and `dpitch` of D.
KERNEL label_rows(i64 vocab, i64 pitch, i64 dpitch, const T* logits, const float* bias, const int* rows, const int* labels,
                  float softcap, float scale, float smoothing, const float* loss_scale, const float* dloss,
                  const float* dlogp, float* stats, float* lse, float* logp, float* entropy, float* mean, float* correct,
                  D* dlogits) {
  const i64 row = blockIdx.x;
  const i64 token = rows ? rows[row] : row;
  const T* x = logits + row * pitch;
  const int label = token < 0 ? -1 : labels[token];
  if (label < 0 || label >= vocab) {
    if (threadIdx.x == 0 && token >= 0) {
      if (stats) for (int k = 0; k < 4; k++) stats[4 * token + k] = 0.0f;
      if (lse) lse[token] = 0.0f;
      if (logp) logp[token] = entropy[token] = mean[token] = correct[token] = 0.0f;
    }
    if (dlogits) for (i64 j = threadIdx.x; j < vocab; j += blockDim.x) dlogits[row * dpitch + j] = from_float<D>(0.0f);
    return;
  }
  const RowStats s = row_stats(vocab, x, bias, softcap, scale);
  const float log_sum = s.max + logf(s.sum);
  if (threadIdx.x == 0) {
    const float target = scale * capped(to_float(x[label]) + (bias ? bias[label] : 0.0f), softcap);
    const float spread = log_sum - s.weighted / s.sum, right = s.best == label ? 1.0f : 0.0f;
    if (stats) {
      stats[4 * token] = log_sum - (1.0f - smoothing) * target - smoothing * (s.total / vocab);
      stats[4 * token + 1] = right, stats[4 * token + 2] = spread, stats[4 * token + 3] = 1.0f;
    }
    if (lse) lse[token] = log_sum;
    if (logp) logp[token] = target - log_sum, entropy[token] = spread, mean[token] = s.total / vocab / scale, correct[token] = right;
  }
  if (!dlogits) return;
  __syncthreads();  // the label's logit has been read
  const float factor = dlogp ? -dlogp[token] * scale : loss_scale[0] * (dloss ? dloss[0] : 1.0f);
  row_gradient(vocab, x, bias, softcap, scale, log_sum, label, smoothing, factor, dlogits + row * dpitch);
}

// metrics = Σ_rows stats in a fixed order; loss = loss_scale·metrics[0]. One block of 128 threads: a warp a column.
KERNEL loss_total(i64 rows, const float* stats, const float* loss_scale, float* loss, float* metrics) {
  const int column = threadIdx.x >> 5, lane = threadIdx.x & 31;
  double sum = 0.0;
  for (i64 r = lane; r < rows; r += 32) sum += stats[4 * r + column];
  sum = warp_sum(sum);
  if (lane != 0) return;
  metrics[column] = (float)sum;
  if (column == 0) loss[0] = (float)(loss_scale[0] * sum);
}
