// Sums in a fixed order. T: type of x.
// y[row] = factor·Σ_j x[row][j]; one block a row.
KERNEL reduce_rows(i64 cols, float factor, const T* x, float* y) {
  const i64 row = (i64)blockIdx.x * cols;
  float sum = 0.0f;
  for (i64 j = threadIdx.x; j < cols; j += blockDim.x) sum += to_float(x[row + j]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) y[blockIdx.x] = factor * sum;
}

// partial[block] = Σ x or Σ x² over the block's share.
KERNEL total_partial(i64 n, int squared, const T* x, double* partial) {
  double sum = 0.0;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
    const float v = to_float(x[i]);
    sum += squared ? (double)v * v : (double)v;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
// out = acc + factor·Σ partial; one block.
KERNEL total_final(i64 parts, float factor, const double* partial, const float* acc, float* out) {
  double sum = 0.0;
  for (i64 i = threadIdx.x; i < parts; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[0] = (float)((acc ? (double)acc[0] : 0.0) + factor * sum);
}

// `pitch`: length of x's rows in memory.
KERNEL column_partial(i64 rows, i64 cols, i64 pitch, i64 rows_per_part, const T* x, float* partial) {
  const i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= cols) return;
  const i64 from = blockIdx.y * rows_per_part, to = from + rows_per_part < rows ? from + rows_per_part : rows;
  float sum = 0.0f;
  for (i64 r = from; r < to; r++) sum += to_float(x[r * pitch + j]);
  partial[blockIdx.y * cols + j] = sum;
}
// y[j] = acc[j] + alpha·Σ_part partial[part][j]
KERNEL column_total(i64 parts, i64 cols, float alpha, const float* partial, const float* acc, float* y) {
  const i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= cols) return;
  float sum = 0.0f;
  for (i64 p = 0; p < parts; p++) sum += partial[p * cols + j];
  y[j] = (acc ? acc[j] : 0.0f) + alpha * sum;
}

KERNEL clip_factor(const float* squares, const float* max_norm, float* norm, float* factor) {
  const float n = sqrtf(squares[0]), max = max_norm[0], f = max / (n + 1e-6f);
  norm[0] = n;
  factor[0] = max > 0.0f ? (f > 1.0f ? 1.0f : f) : 1.0f;
}

// out[s] = Σ x[t] over segments[t] = s; one block a segment.
KERNEL segment_sum(i64 n, const float* x, const int* segments, float* out) {
  float sum = 0.0f;
  for (i64 t = threadIdx.x; t < n; t += blockDim.x) sum += segments[t] == (int)blockIdx.x ? x[t] : 0.0f;
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// out[i] = x[indices[i]], 0 where there is no such element.
KERNEL take(i64 n, i64 length, const float* x, const int* indices, float* out) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
    const int at = indices[i];
    out[i] = at >= 0 && at < length ? x[at] : 0.0f;
  }
}
