// Sums in a fixed order. T: type of x.
// y[row] = factor·Σ_j x[row][j]; one block a row.
KERNEL reduce_rows(i64 cols, float factor, const T* x, float* y) {
  const i64 row = (i64)blockIdx.x * cols;
  float sum = 0.0f;
  for (i64 j = threadIdx.x; j < cols; j += blockDim.x) sum += to_float(x[row + j]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) y[blockIdx.x] = factor * sum;
}

// partial[block] = Σ x over the block's share.
KERNEL total_partial(i64 n, const T* x, double* partial) {
  double sum = 0.0;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) sum += to_float(x[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// partial[block] = Σ x² over the block's share of several arrays: array t has the blocks from first[t] on, first[t + 1] is
// where they end.
#define MANY 120
struct Arrays { const T* x[MANY]; i64 n[MANY]; i64 first[MANY + 1]; i64 count; };
KERNEL squares_partial(const __grid_constant__ Arrays all, double* partial) {
  int low = 0, high = (int)all.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (all.first[middle] <= (i64)blockIdx.x) low = middle;
    else high = middle - 1;
  }
  const T* x = all.x[low];
  const i64 n = all.n[low], blocks = all.first[low + 1] - all.first[low];
  double sum = 0.0;
  for (i64 i = ((i64)blockIdx.x - all.first[low]) * blockDim.x + threadIdx.x; i < n; i += blocks * blockDim.x) {
    const float v = to_float(x[i]);
    sum += (double)v * v;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// out = factor·Σ partial; one block.
KERNEL total_final(i64 parts, float factor, const double* partial, float* out) {
  double sum = 0.0;
  for (i64 i = threadIdx.x; i < parts; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[0] = (float)(factor * sum);
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
