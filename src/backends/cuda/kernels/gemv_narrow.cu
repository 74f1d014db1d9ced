// A narrow f32 weight [n, K] (LoRA's A), K a multiple of 8.
struct Narrow {
  const float* weight;
  Y* y;
  int n, pad;
};

// y[m, f] = alpha·Σ x[m, k]·w[f, k] for narrow weights: a feature of one of them and eight rows a block.
KERNEL few_narrow(int M, int K, float alpha, const bf16* x, Narrow p0, Narrow p1, Narrow p2) {
  __shared__ float part[32][8];
  int f = blockIdx.x;
  Narrow p = p0;
  if (f >= p0.n) {
    f -= p0.n, p = p1;
    if (f >= p1.n) f -= p1.n, p = p2;
  }
  const int row0 = 8 * blockIdx.y, rows = M - row0 < 8 ? M - row0 : 8;
  const float* w = p.weight + (i64)f * K;
  start_next();
  if (threadIdx.x == 0) prefetch(w, 4 * K);
  wait_for_previous();
  float sum[8] = {};
  for (int k = 8 * threadIdx.x; k < K; k += 8 * blockDim.x) {
    const Pack<float, 4> a = load_pack<4>(w + k), b = load_pack<4>(w + k + 4);
#pragma unroll
    for (int m = 0; m < 8; m++) {
      if (m >= rows) break;
      const Pack<bf16, 8> v = load_pack<8>(x + (i64)(row0 + m) * K + k);
#pragma unroll
      for (int i = 0; i < 4; i++) sum[m] += a.v[i] * to_float(v.v[i]) + b.v[i] * to_float(v.v[4 + i]);
    }
  }
#pragma unroll
  for (int m = 0; m < 8; m++) {
    sum[m] = warp_sum(sum[m]);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5][m] = sum[m];
  }
  __syncthreads();
  if (threadIdx.x < rows) {
    float y = 0.0f;
    for (int warp = 0; warp < blockDim.x / 32; warp++) y += part[warp][threadIdx.x];
    p.y[(i64)(row0 + threadIdx.x) * p.n + f] = from_float<Y>(alpha * y);
  }
}
