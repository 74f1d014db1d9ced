// The update of products of few rows (gemv.cu): acc += alpha2·B·lowᵀ for 16 features from `feature0` on.
DEVICE void add_update(float (&acc)[NT][4], const Part& p, int feature0, int row0, int rows) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, r = p.rank;
  float d[NT][4] = {};
  for (int k0 = 0; k0 < r; k0 += 16) {
    float b[2][4];
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int feature = feature0 + g + 8 * h, k = k0 + 4 * t + i;
        b[h][i] = feature < p.n && k < r ? p.b[(i64)feature * r + k] : 0.0f;
      }
    u32 lows[NT][2];
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int q = 0; q < 2; q++) {
        u32 both = 0;
        if (8 * n + g < rows)
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const int k = k0 + 4 * t + 2 * q + i;
            if (k < r) both |= (u32)p.low[(i64)(row0 + 8 * n + g) * r + k].bits << (16 * i);
          }
        lows[n][q] = both;
      }
#pragma unroll
    for (int n = 0; n < NT; n++)
      mma(d[n], pair_of(b[0][0], b[0][1]), pair_of(b[1][0], b[1][1]), pair_of(b[0][2], b[0][3]), pair_of(b[1][2], b[1][3]),
          lows[n][0], lows[n][1]);
  }
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) acc[n][i] += p.alpha2 * d[n][i];
}
