// What goes into products of few rows, and the narrow products (LoRA's A) of it, in one pass. GLU: 1: y = act(first)·second,
// both [M, K]; 0: y = RMS norm of first with the weight second [K].
//
// A block has one narrow feature and up to four rows. It goes over whole rows: of a norm the sum of squares and the product
// of the unscaled row come out together, so the row is read once; then it writes its share of y.
#define ROWS 4
struct Narrow {
  const float* weight;
  bf16* y;
  int n, pad;
};

DEVICE float act_of(int act, float x) {
  if (act == 0) return x / (1.0f + __expf(-x));
  if (act == 1) return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
  return x * 0.5f * (1.0f + erff(x * 0.7071067811865476f));
}

#if GLU
typedef bf16 Second;
#else
typedef float Second;
#endif

KERNEL few_prepare(int M, int K, const bf16* first, const Second* second, float eps, float offset, int act, bf16* y, float alpha,
                   Narrow p0, Narrow p1, Narrow p2) {
  __shared__ float part[32][2 * ROWS], scale[ROWS];
  int f = blockIdx.x;
  Narrow p = p0;
  if (f >= p0.n) {
    f -= p0.n, p = p1;
    if (f >= p1.n) f -= p1.n, p = p2;
  }
  const bool narrow = f < p.n;
  const int row0 = ROWS * blockIdx.y, rows = M - row0 < ROWS ? M - row0 : ROWS;
  const float* w = p.weight + (i64)f * K;
  start_next();
  if (threadIdx.x == 0) {
    if (narrow) prefetch(w, 4 * K);
    if (!GLU) prefetch(second, 4 * K);
  }
  wait_for_previous();
  float dot[ROWS] = {}, squares[ROWS] = {};
  if (narrow || !GLU)
    for (int k = 8 * threadIdx.x; k < K; k += 8 * blockDim.x) {
      Pack<float, 8> a = {};
      if (narrow) a = load_pack<8>(w + k);
#if !GLU
      const Pack<float, 8> norm = load_pack<8>(second + k);
#pragma unroll
      for (int i = 0; i < 8; i++) a.v[i] *= offset + norm.v[i];
#endif
#pragma unroll
      for (int m = 0; m < ROWS; m++) {
        if (m >= rows) break;
        const i64 at = (i64)(row0 + m) * K + k;
        const Pack<bf16, 8> x = load_pack<8>(first + at);
#if GLU
        const Pack<bf16, 8> u = load_pack<8>(second + at);
#endif
#pragma unroll
        for (int i = 0; i < 8; i++) {
          float v = to_float(x.v[i]);
#if GLU
          v = act_of(act, v) * to_float(u.v[i]);
#else
          squares[m] += v * v;
#endif
          dot[m] += v * a.v[i];
        }
      }
    }
#pragma unroll
  for (int m = 0; m < ROWS; m++) {
    dot[m] = warp_sum(dot[m]), squares[m] = warp_sum(squares[m]);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5][m] = dot[m], part[threadIdx.x >> 5][ROWS + m] = squares[m];
  }
  __syncthreads();
  if (threadIdx.x < rows) {
    float product = 0.0f, sum = 0.0f;
    for (int warp = 0; warp < blockDim.x / 32; warp++)
      product += part[warp][threadIdx.x], sum += part[warp][ROWS + threadIdx.x];
    scale[threadIdx.x] = GLU ? 1.0f : rsqrtf(sum / K + eps);
    if (narrow) p.y[(i64)(row0 + threadIdx.x) * p.n + f] = from_float<bf16>(alpha * scale[threadIdx.x] * product);
  }
  __syncthreads();
  const int packs = K / 8, share = (packs + gridDim.x - 1) / gridDim.x, from = share * blockIdx.x;
  const int to = from + share < packs ? from + share : packs;
  for (int e = threadIdx.x; e < rows * share; e += blockDim.x) {
    const int m = e / share, pack = from + e % share;
    if (pack >= to) continue;
    const i64 at = (i64)(row0 + m) * K + 8 * pack;
    const Pack<bf16, 8> x = load_pack<8>(first + at);
    const Pack<Second, 8> s = load_pack<8>(second + (GLU ? at : 8 * pack));
    Pack<bf16, 8> z;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float v = to_float(x.v[i]);
      z.v[i] = from_float<bf16>(GLU ? act_of(act, v) * to_float(s.v[i]) : v * scale[m] * (offset + to_float(s.v[i])));
    }
    store_pack<8>(y + at, z);
  }
}
