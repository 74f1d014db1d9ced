// A low-rank update as more depth of the frozen product: [X, low]·[W, s·B]ᵀ. T: type that is multiplied in.
// Up to three low-rank parts of widths r0, r1, r2 go together; 0: there is none.
struct Parts { const T* low[3]; int r[3]; };
// Element j of row `row` of [low_0, low_1, low_2, 0].
DEVICE T part_at(const Parts& parts, i64 row, int j) {
#pragma unroll
  for (int p = 0; p < 3; p++) {
    if (j < parts.r[p]) return parts.low[p][row * parts.r[p] + j];
    j -= parts.r[p];
  }
  return from_float<T>(0.0f);
}

// out[rows, pitch] = [x[rows, k], low_0, low_1, low_2, 0]; k (may be 0) and pitch are multiples of 8.
KERNEL join_columns(i64 rows, int k, int pitch, const T* x, const T* low0, const T* low1, const T* low2, int r0, int r1,
                    int r2, T* out) {
  const Parts parts = {{low0, low1, low2}, {r0, r1, r2}};
  const int packs = pitch / 8;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * packs; i += (i64)gridDim.x * blockDim.x) {
    const i64 row = i / packs;
    const int j = (int)(i % packs) * 8;
    Pack<T, 8> p;
    if (j < k) p = load_pack<8>(x + row * k + j);
    else
#pragma unroll
      for (int e = 0; e < 8; e++) p.v[e] = part_at(parts, row, j - k + e);
    store_pack<8>(out + row * pitch + j, p);
  }
}

// The other way: low_i[rows, r_i] from x[rows, r0 + r1 + r2].
KERNEL split_columns(i64 rows, const T* x, T* low0, T* low1, T* low2, int r0, int r1, int r2) {
  const int width = r0 + r1 + r2;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * width; i += (i64)gridDim.x * blockDim.x) {
    const i64 row = i / width;
    const int j = (int)(i % width);
    if (j < r0) low0[row * r0 + j] = x[i];
    else if (j < r0 + r1) low1[row * r1 + j - r0] = x[i];
    else low2[row * r2 + j - r0 - r1] = x[i];
  }
}

// The columns from k on of w[rows, pitch]: zeros but for scale·b[rows, r], `before` columns further on.
KERNEL append_columns(i64 rows, int k, int before, int r, int pitch, float scale, const float* b, T* w) {
  const int extra = pitch - k;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * extra; i += (i64)gridDim.x * blockDim.x) {
    const i64 row = i / extra;
    const int j = (int)(i % extra) - before;
    w[row * pitch + k + before + j] = from_float<T>(j >= 0 && j < r ? scale * b[row * r + j] : 0.0f);
  }
}

// `pad` rows of n: scale·b[r, n], then zeros.
KERNEL append_rows(i64 n, int r, int pad, float scale, const float* b, T* w) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n * pad; i += (i64)gridDim.x * blockDim.x)
    w[i] = from_float<T>(i < n * r ? scale * b[i] : 0.0f);
}
