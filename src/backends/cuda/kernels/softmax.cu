// Rows of log-probabilities and their derivative, a block a row. T: type of all.
// y = scale·x − lse(scale·x); y may be x.
KERNEL log_softmax(i64 cols, float scale, const T* x, T* y) {
  const i64 row = (i64)blockIdx.x * cols;
  float max = -INF;
  for (i64 j = threadIdx.x; j < cols; j += blockDim.x) max = fmaxf(max, scale * to_float(x[row + j]));
  max = block_max(max);
  float sum = 0.0f;
  for (i64 j = threadIdx.x; j < cols; j += blockDim.x) sum += expf(scale * to_float(x[row + j]) - max);
  const float lse = max + logf(block_sum(sum));
  for (i64 j = threadIdx.x; j < cols; j += blockDim.x) y[row + j] = from_float<T>(scale * to_float(x[row + j]) - lse);
}

// dx = scale·(dy − e^y·Σ dy); dx may be dy.
KERNEL log_softmax_grad(i64 cols, float scale, const T* y, const T* dy, T* dx) {
  const i64 row = (i64)blockIdx.x * cols;
  float sum = 0.0f;
  for (i64 j = threadIdx.x; j < cols; j += blockDim.x) sum += to_float(dy[row + j]);
  sum = block_sum(sum);
  for (i64 j = threadIdx.x; j < cols; j += blockDim.x)
    dx[row + j] = from_float<T>(scale * (to_float(dy[row + j]) - expf(to_float(y[row + j])) * sum));
}
