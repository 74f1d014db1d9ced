// Softmax cross-entropy, one block a row of logits. T: type of the logits; D: type of their gradient.
// stats[row] = {cross-entropy, correct, entropy, trained}; lse may be 0 (not wanted).
DEVICE float capped(float x, float softcap) { return softcap > 0.0f ? softcap * tanhf(x / softcap) : x; }

struct RowStats { float max, sum, weighted, total; int best; };

// Largest logit (the first on a tie), Σ e^(x−max), Σ e^(x−max)·x, Σ x.
DEVICE RowStats row_stats(i64 vocab, const T* x, const float* bias, float softcap) {
  float max = -INF, best_value = -INF;
  i64 best = vocab;
  for (i64 j = threadIdx.x; j < vocab; j += blockDim.x) {
    const float v = capped(to_float(x[j]) + (bias ? bias[j] : 0.0f), softcap);
    if (v > best_value) best_value = v, best = j;
    max = fmaxf(max, v);
  }
  max = block_max(max);
  RowStats s = {max, 0.0f, 0.0f, 0.0f, 0};
  for (i64 j = threadIdx.x; j < vocab; j += blockDim.x) {
    const float v = capped(to_float(x[j]) + (bias ? bias[j] : 0.0f), softcap), e = expf(v - max);
    s.sum += e, s.weighted += e * v, s.total += v;
  }
  s.sum = block_sum(s.sum), s.weighted = block_sum(s.weighted), s.total = block_sum(s.total);
  const float first = block_max(best_value == max && best < vocab ? -(float)best : -INF);
  s.best = (int)-first;
  return s;
}

// The loss and its gradient by the logits, in one visit. dx may be x (T = D). Rows without a target get zeros.
KERNEL cross_entropy_rows(i64 vocab, const T* logits, const float* bias, const int* labels, const float* loss_scale,
                          const float* dloss, float softcap, float smoothing, float* stats, float* lse, D* dlogits) {
  const i64 row = blockIdx.x;
  const T* x = logits + row * vocab;
  const int label = labels[row];
  const bool trained = label >= 0 && label < vocab;
  if (!trained) {
    if (threadIdx.x == 0) {
      if (stats) for (int k = 0; k < 4; k++) stats[4 * row + k] = 0.0f;
      if (lse) lse[row] = 0.0f;
    }
    if (dlogits) for (i64 j = threadIdx.x; j < vocab; j += blockDim.x) dlogits[row * vocab + j] = from_float<D>(0.0f);
    return;
  }
  const RowStats s = row_stats(vocab, x, bias, softcap);
  const float log_sum = s.max + logf(s.sum);
  const float target = capped(to_float(x[label]) + (bias ? bias[label] : 0.0f), softcap);
  __syncthreads();
  if (threadIdx.x == 0) {
    if (stats) {
      stats[4 * row] = log_sum - (1.0f - smoothing) * target - smoothing * (s.total / vocab);
      stats[4 * row + 1] = s.best == label ? 1.0f : 0.0f;
      stats[4 * row + 2] = log_sum - s.weighted / s.sum;
      stats[4 * row + 3] = 1.0f;
    }
    if (lse) lse[row] = log_sum;
  }
  if (!dlogits) return;
  const float factor = loss_scale[0] * (dloss ? dloss[0] : 1.0f), each = smoothing / vocab;
  for (i64 j = threadIdx.x; j < vocab; j += blockDim.x) {
    const float raw = to_float(x[j]) + (bias ? bias[j] : 0.0f), v = capped(raw, softcap);
    float g = expf(v - log_sum) - each - (j == label ? 1.0f - smoothing : 0.0f);
    if (softcap > 0.0f) g *= 1.0f - (v / softcap) * (v / softcap);
    dlogits[row * vocab + j] = from_float<D>(factor * g);
  }
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
