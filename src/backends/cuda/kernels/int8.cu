// Weights in 8 bits with a scale a block (quant/int8.ts): value = code·scale. T: type decoded to.
// PITCHED: rows of `cols` elements go to rows of `pitch`, for a product that has more columns to the right.
#define UNROLL 4
KERNEL int8_decode(i64 n, const u64* data, const float* scales, int log_block, u32 cols, u32 pitch, T* out) {
  const i64 words = n / 8, base = (i64)blockIdx.x * blockDim.x * UNROLL + threadIdx.x;
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const i64 at = base + u * blockDim.x;
    if (at >= words) continue;
    const u64 word = data[at];
    const float scale = scales[(8 * at) >> log_block];
    Pack<T, 8> y;
#pragma unroll
    for (int k = 0; k < 8; k++) y.v[k] = from_float<T>((float)(signed char)(word >> (8 * k)) * scale);
#if PITCHED
    store_pack<8>(out + 8 * at / cols * pitch + 8 * at % cols, y);
#else
    store_pack<8>(out + 8 * at, y);
#endif
  }
  if (blockIdx.x == 0)
    for (i64 i = 8 * words + threadIdx.x; i < n; i += blockDim.x) {
      const float value = (float)reinterpret_cast<const signed char*>(data)[i] * scales[i >> log_block];
#if PITCHED
      out[i / cols * pitch + i % cols] = from_float<T>(value);
#else
      out[i] = from_float<T>(value);
#endif
    }
}
