// Rotary position embedding (Su et al. 2021), rotate-half layout. T: type of x; the table is f32 [maxPos, D]: cosines of
// the D/2 angles, then sines. One thread a pair.
KERNEL rope(i64 tokens, int heads, int D, const T* x, const float* table, int max_positions, const int* positions, int inverse, T* y) {
  const int half = D / 2;
  const i64 n = tokens * heads * half;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
    const i64 vector = i / half, t = vector / heads, at = vector * D + i % half;
    const int j = (int)(i % half), position = positions[t];
    float a = 0.0f, b = 0.0f;
    if (position >= 0 && position < max_positions) {
      const float c = table[(i64)position * D + j], s0 = table[(i64)position * D + half + j], s = inverse ? -s0 : s0;
      const float p = to_float(x[at]), q = to_float(x[at + half]);
      a = p * c - q * s, b = q * c + p * s;
    }
    y[at] = from_float<T>(a), y[at + half] = from_float<T>(b);
  }
}
