// What the derivative of each softmax row needs, made once for both backward kernels: stats[0][head][t] = lse in base
// 2, stats[1][head][t] = Σ_j do·o. A group of lanes a (token, head), 8 elements a lane. T: type of o and do; D: head size, a multiple of 8.
#define GROUP (D > 128 ? 32 : D > 64 ? 16 : 8)

KERNEL attention_delta(int tokens, int heads, const T* o, const T* dout, const float* lse, float* stats) {
  const i64 id = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / GROUP;
  const int lane = threadIdx.x % GROUP;
  const bool inside = id < (i64)tokens * heads;
  float sum = 0.0f;
  if (inside && 8 * lane < D) {
    const Pack<T, 8> a = load_pack<8>(o + id * D + 8 * lane), b = load_pack<8>(dout + id * D + 8 * lane);
#pragma unroll
    for (int i = 0; i < 8; i++) sum += to_float(a.v[i]) * to_float(b.v[i]);
  }
#pragma unroll
  for (int d = GROUP / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, d);
  if (!inside || lane != 0) return;
  const i64 at = (id % heads) * tokens + id / heads;
  const float x = lse[at];
  stats[at] = x == -INF ? 0.0f : x * 1.4426950408889634f;  // -INF: a row that sees nothing, all its p are masked
  stats[(i64)heads * tokens + at] = sum;
}
