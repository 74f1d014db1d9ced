// A low-rank update as more depth of the frozen product: [X, low]·[W, s·B]ᵀ. T: type that is multiplied in.
// out[rows, pitch] = [x[rows, k], low[rows, r], 0]; k and pitch are multiples of 8.
KERNEL join_columns(i64 rows, int k, int r, int pitch, const T* x, const T* low, T* out) {
  const int packs = pitch / 8;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * packs; i += (i64)gridDim.x * blockDim.x) {
    const i64 row = i / packs;
    const int j = (int)(i % packs) * 8;
    Pack<T, 8> p;
    if (j < k) p = load_pack<8>(x + row * k + j);
    else
#pragma unroll
      for (int e = 0; e < 8; e++) p.v[e] = j - k + e < r ? low[row * r + j - k + e] : from_float<T>(0.0f);
    store_pack<8>(out + row * pitch + j, p);
  }
}

// The columns from k on of w[rows, pitch]: scale·b[rows, r], then zeros.
KERNEL append_columns(i64 rows, int k, int r, int pitch, float scale, const float* b, T* w) {
  const int extra = pitch - k;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * extra; i += (i64)gridDim.x * blockDim.x) {
    const i64 row = i / extra;
    const int j = (int)(i % extra);
    w[row * pitch + k + j] = from_float<T>(j < r ? scale * b[row * r + j] : 0.0f);
  }
}

// `pad` rows of n: scale·b[r, n], then zeros.
KERNEL append_rows(i64 n, int r, int pad, float scale, const float* b, T* w) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n * pad; i += (i64)gridDim.x * blockDim.x)
    w[i] = from_float<T>(i < n * r ? scale * b[i] : 0.0f);
}
