// Numbers as e4m3 with f32 scales, for products in 8 bits (Micikevicius et al. 2022, "FP8 formats for deep learning"):
// value ≈ code·scale, scale = absmax/448. T: type of the numbers. Needs compute capability 8.9.
#define E4M3_MAX 448.0f

DEVICE u16 two_e4m3(float low, float high) {
  u16 pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}
DEVICE float scale_for(float absmax) { return absmax > 0.0f ? absmax / E4M3_MAX : 1.0f; }

// A block a row of k numbers (a multiple of 8), its scale to scales[row].
KERNEL rows_e4m3(i64 k, const T* x, u8* out, float* scales) {
  const i64 row = blockIdx.x;
  const T* source = x + row * k;
  float top = 0.0f;
  for (i64 at = 8 * threadIdx.x; at < k; at += 8 * blockDim.x) {
    const Pack<T, 8> p = load_pack<8>(source + at);
#pragma unroll
    for (int e = 0; e < 8; e++) top = fmaxf(top, fabsf(to_float(p.v[e])));
  }
  top = block_max(top);
  const float scale = scale_for(top), inverse = 1.0f / scale;
  if (threadIdx.x == 0) scales[row] = scale;
  for (i64 at = 8 * threadIdx.x; at < k; at += 8 * blockDim.x) {
    const Pack<T, 8> p = load_pack<8>(source + at);
    Pack<u16, 4> y;
#pragma unroll
    for (int e = 0; e < 4; e++) y.v[e] = two_e4m3(to_float(p.v[2 * e]) * inverse, to_float(p.v[2 * e + 1]) * inverse);
    *reinterpret_cast<Pack<u16, 4>*>(out + row * k + at) = y;
  }
}

// Largest magnitude of n numbers (a multiple of 8), as bits that order as the numbers do; `top` begins as 0.
KERNEL absmax(i64 n, const T* x, u32* top) {
  float mine = 0.0f;
  for (i64 at = 8 * ((i64)blockIdx.x * blockDim.x + threadIdx.x); at < n; at += 8 * (i64)gridDim.x * blockDim.x) {
    const Pack<T, 8> p = load_pack<8>(x + at);
#pragma unroll
    for (int e = 0; e < 8; e++) mine = fmaxf(mine, fabsf(to_float(p.v[e])));
  }
  mine = block_max(mine);
  if (threadIdx.x == 0) atomicMax(top, __float_as_uint(mine));
}

// out[k, n] = x[n, k]ᵀ with one scale, from `top`, in all of scales[k]. 64 by 64 numbers a block of 256 threads.
KERNEL transpose_e4m3(int n, int k, const T* x, const u32* top, u8* out, float* scales) {
  __shared__ alignas(16) u8 tile[64][80];
  const float scale = scale_for(__uint_as_float(top[0])), inverse = 1.0f / scale;
  const int row0 = blockIdx.y * 64, col0 = blockIdx.x * 64, part = threadIdx.x & 3, line = threadIdx.x >> 2;
  if (blockIdx.y == 0 && threadIdx.x < 64 && col0 + threadIdx.x < k) scales[col0 + threadIdx.x] = scale;
  if (row0 + line < n && col0 + 16 * part < k) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Pack<T, 8> p = load_pack<8>(x + (i64)(row0 + line) * k + col0 + 16 * part + 8 * half);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const u16 pair = two_e4m3(to_float(p.v[2 * e]) * inverse, to_float(p.v[2 * e + 1]) * inverse);
        tile[16 * part + 8 * half + 2 * e][line] = (u8)pair;
        tile[16 * part + 8 * half + 2 * e + 1][line] = (u8)(pair >> 8);
      }
    }
  }
  __syncthreads();
  if (col0 + line < k && row0 + 16 * part < n)
    *reinterpret_cast<Pack<u8, 16>*>(out + (i64)(col0 + line) * n + row0 + 16 * part) =
        *reinterpret_cast<const Pack<u8, 16>*>(&tile[line][16 * part]);
}
