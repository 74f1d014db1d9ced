// Rotary position embedding (Su et al. 2021), rotate-half layout. T: type of x; the table is f32 [maxPos, D]: cosines of
// the D/2 angles, then sines. V neighbouring pairs a thread (-DV: 8 where D/2 allows it, else 1).
KERNEL rope(i64 tokens, int heads, int D, const T* x, const float* table, int max_positions, const int* positions, int inverse, T* y) {
  const int half = D / 2, runs = half / V;
  const i64 n = tokens * heads * runs;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
    const i64 vector = i / runs, t = vector / heads, at = vector * D + i % runs * V;
    const int j = (int)(i % runs) * V, position = positions[t];
    Pack<T, V> a = {}, b = {};
    if (position >= 0 && position < max_positions) {
      const Pack<T, V> p = load_pack<V>(x + at), q = load_pack<V>(x + at + half);
      const Pack<float, V> c = load_pack<V>(table + (i64)position * D + j), s0 = load_pack<V>(table + (i64)position * D + half + j);
#pragma unroll
      for (int k = 0; k < V; k++) {
        const float u = to_float(p.v[k]), v = to_float(q.v[k]), s = inverse ? -s0.v[k] : s0.v[k];
        a.v[k] = from_float<T>(u * c.v[k] - v * s), b.v[k] = from_float<T>(v * c.v[k] + u * s);
      }
    }
    store_pack<V>(y + at, a), store_pack<V>(y + at + half, b);
  }
}
