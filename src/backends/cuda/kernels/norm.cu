// RMSNorm (Zhang & Sennrich 2019), one block a row. T: type of activations; weights and statistics are f32.
// V elements a thread at a time: 8 where rows allow it, else 1 (-DV).
KERNEL rms_norm(i64 d, const T* x, const float* w, float eps, float offset, const T* residual, T* y) {
  const i64 row = (i64)blockIdx.x * d;
  float squares = 0.0f;
  for (i64 j = (i64)threadIdx.x * V; j < d; j += (i64)blockDim.x * V) {
    const Pack<T, V> p = load_pack<V>(x + row + j);
#pragma unroll
    for (int k = 0; k < V; k++) squares += to_float(p.v[k]) * to_float(p.v[k]);
  }
  const float rstd = rsqrtf(block_sum(squares) / d + eps);
  for (i64 j = (i64)threadIdx.x * V; j < d; j += (i64)blockDim.x * V) {
    const Pack<T, V> p = load_pack<V>(x + row + j);
    const Pack<float, V> weight = load_pack<V>(w + j);
    Pack<T, V> r = {}, out;
    if (residual) r = load_pack<V>(residual + row + j);
#pragma unroll
    for (int k = 0; k < V; k++)
      out.v[k] = from_float<T>(to_float(p.v[k]) * rstd * (offset + weight.v[k]) + (residual ? to_float(r.v[k]) : 0.0f));
    store_pack<V>(y + row + j, out);
  }
}

// dx = acc + rstd·(g − x·rstd²·mean(g·x)), g = dy·(offset + w).
KERNEL rms_norm_grad(i64 d, const T* dy, const T* x, const float* w, float eps, float offset, const T* acc, T* dx) {
  const i64 row = (i64)blockIdx.x * d;
  float squares = 0.0f, dot = 0.0f;
  for (i64 j = (i64)threadIdx.x * V; j < d; j += (i64)blockDim.x * V) {
    const Pack<T, V> p = load_pack<V>(x + row + j), g = load_pack<V>(dy + row + j);
    const Pack<float, V> weight = load_pack<V>(w + j);
#pragma unroll
    for (int k = 0; k < V; k++) {
      const float v = to_float(p.v[k]);
      squares += v * v, dot += v * to_float(g.v[k]) * (offset + weight.v[k]);
    }
  }
  squares = block_sum(squares);
  dot = block_sum(dot);
  const float rstd = rsqrtf(squares / d + eps), c = dot / d * rstd * rstd;
  for (i64 j = (i64)threadIdx.x * V; j < d; j += (i64)blockDim.x * V) {
    const Pack<T, V> p = load_pack<V>(x + row + j), g = load_pack<V>(dy + row + j);
    const Pack<float, V> weight = load_pack<V>(w + j);
    Pack<T, V> a = {}, out;
    if (acc) a = load_pack<V>(acc + row + j);
#pragma unroll
    for (int k = 0; k < V; k++) {
      const float dxk = rstd * (to_float(g.v[k]) * (offset + weight.v[k]) - to_float(p.v[k]) * c);
      out.v[k] = from_float<T>(dxk + (acc ? to_float(a.v[k]) : 0.0f));
    }
    store_pack<V>(dx + row + j, out);
  }
}

KERNEL rms_rstd(i64 d, const T* x, float eps, float* rstd) {
  const i64 row = (i64)blockIdx.x * d;
  float squares = 0.0f;
  for (i64 j = threadIdx.x; j < d; j += blockDim.x) squares += to_float(x[row + j]) * to_float(x[row + j]);
  squares = block_sum(squares);
  if (threadIdx.x == 0) rstd[blockIdx.x] = rsqrtf(squares / d + eps);
}

// Part `blockIdx.y` of the rows: partial[part][j] = Σ dy·x·rstd. The parts are added by column_total (reduce.cu).
KERNEL rms_weight_partial(i64 rows, i64 d, i64 rows_per_part, const T* dy, const T* x, const float* rstd, float* partial) {
  const i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= d) return;
  const i64 from = blockIdx.y * rows_per_part, to = from + rows_per_part < rows ? from + rows_per_part : rows;
  float sum = 0.0f;
  for (i64 r = from; r < to; r++) sum += to_float(dy[r * d + j]) * to_float(x[r * d + j]) * rstd[r];
  partial[blockIdx.y * d + j] = sum;
}
