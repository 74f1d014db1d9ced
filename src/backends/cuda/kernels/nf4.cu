// NF4 (Dettmers et al. 2023, QLoRA). T: type decoded to, or of the source to encode.
__constant__ float CODE[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
    -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
    0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
__constant__ float MIDDLE[15] = {
    -0.84809637069702148f, -0.61063289642333984f, -0.45999526977539062f, -0.33967941999435425f, -0.23460739850997925f,
    -0.13791173696517944f, -0.045525018125772476f, 0.03979014977812767f, 0.120255246758461f, 0.2035212516784668f,
    0.29201376438140869f, 0.38931253552436829f, 0.5016634464263916f, 0.64278692007064819f, 0.86147844791412354f};

// Scale of a block: f32, or 8 bits with a map and scales of their own (double quantisation), rounded twice.
DEVICE float scale_of(i64 block, const void* absmax, const float* nested, const float* map, float offset) {
  if (!nested) return reinterpret_cast<const float*>(absmax)[block];
  return __fadd_rn(__fmul_rn(map[reinterpret_cast<const u8*>(absmax)[block]], nested[block >> 8]), offset);
}

// PITCHED: rows of `cols` elements go to rows of `pitch`, for a product that has more columns to the right.
DEVICE i64 place(i64 element, u32 cols, u32 pitch) {
#if PITCHED
  return element / cols * pitch + element % cols;
#else
  return element;
#endif
}

// 8 elements (4 bytes) a thread at a time, UNROLL independent loads in flight: this kernel is memory bandwidth. 16 codes in 16
// banks of shared memory: lookups never conflict. log_block: log2 of the block size.
#define UNROLL 4
KERNEL nf4_decode(i64 n, const u32* data, const void* absmax, const float* nested, const float* map, float offset, int log_block, u32 cols,
                  u32 pitch, T* out) {
  __shared__ float code[16];
  if (threadIdx.x < 16) code[threadIdx.x] = CODE[threadIdx.x];
  __syncthreads();
  const i64 words = n / 8, base = (i64)blockIdx.x * blockDim.x * UNROLL + threadIdx.x;
  u32 word[UNROLL];
  float scale[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const i64 at = base + u * blockDim.x;
    if (at < words) word[u] = data[at];
  }
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const i64 at = base + u * blockDim.x;
    if (at < words) scale[u] = scale_of((8 * at) >> log_block, absmax, nested, map, offset);
  }
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const i64 at = base + u * blockDim.x;
    if (at >= words) continue;
    Pack<T, 8> y;
#pragma unroll
    for (int k = 0; k < 4; k++) {  // the even element is the high half of its byte
      const u32 byte = word[u] >> (8 * k);
      y.v[2 * k] = from_float<T>(code[(byte >> 4) & 15] * scale[u]);
      y.v[2 * k + 1] = from_float<T>(code[byte & 15] * scale[u]);
    }
    store_pack<8>(out + place(8 * at, cols, pitch), y);
  }
  if (blockIdx.x == 0)
    for (i64 i = 8 * words + threadIdx.x; i < n; i += blockDim.x) {
      const u8 byte = reinterpret_cast<const u8*>(data)[i / 2];
      out[place(i, cols, pitch)] = from_float<T>(code[i % 2 ? byte & 15 : byte >> 4] * scale_of(i >> log_block, absmax, nested, map, offset));
    }
}

// One warp a block of `block` elements. As bitsandbytes' CPU code: whole blocks are multiplied by 1/absmax, a partial last
// one is divided by its absmax of at least 1e-38; ties go down, NaN has code 15, a missing low half is 7.
KERNEL nf4_quantize(i64 n, i64 block, const T* x, u8* data, float* absmax) {
  const i64 b = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / 32, from = b * block;
  const int lane = threadIdx.x & 31;
  if (from >= n) return;
  const i64 to = from + block < n ? from + block : n;
  float top = 0.0f;
  for (i64 i = from + lane; i < to; i += 32) {
    const float v = fabsf(to_float(x[i]));
    top = v > top || v != v ? v : top;
  }
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) {
    const float other = __shfl_xor_sync(FULL_WARP, top, d);
    top = other > top || other != other ? other : top;
  }
  const bool whole = to - from == block;
  const float scale = top < 1e-38f ? 1e-38f : top, inverse = 1.0f / scale;
  if (lane == 0) absmax[b] = whole ? top : scale;
  for (i64 i = from + 2 * lane; i < to; i += 64) {
    int codes[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
      codes[k] = 7;
      if (i + k >= to) continue;
      const float v = to_float(x[i + k]), y = whole ? __fmul_rn(v, inverse) : __fdiv_rn(v, scale);
      int code = 15;
#pragma unroll
      for (int j = 0; j < 15; j++) code -= y <= MIDDLE[j];
      codes[k] = code;
    }
    data[i / 2] = (u8)(codes[0] << 4 | codes[1]);
  }
}
