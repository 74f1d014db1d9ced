// Attention of sequences of one token, and its gradients: a single key has probability 1. For tokens that a library's
// kernels leave out; those of longer sequences are not touched. A warp a token; rows as in attention.cu. T: type of all arrays but lse.
#define TOKEN ((int)blockIdx.x * 8 + (int)(threadIdx.x >> 5))

KERNEL attention_single(int tokens, int heads, int kv_heads, int head_dim, const int* start, const int* end, const T* q,
                        const T* k, const T* v, float scale, T* o, float* lse) {
  const int t = TOKEN, lane = threadIdx.x & 31, group = heads / kv_heads;
  if (t >= tokens || end[t] - start[t] != 1) return;
  for (int h = 0; h < heads; h++) {
    const i64 at = ((i64)t * heads + h) * head_dim, key = ((i64)t * kv_heads + h / group) * head_dim;
    float dot = 0.0f;
    for (int d = lane; d < head_dim; d += 32) {
      dot += to_float(q[at + d]) * to_float(k[key + d]);
      o[at + d] = v[key + d];
    }
    for (int d = 16; d > 0; d >>= 1) dot += __shfl_xor_sync(FULL_WARP, dot, d);
    if (lane == 0) lse[(i64)h * tokens + t] = scale * dot;
  }
}

KERNEL attention_single_grad(int tokens, int heads, int kv_heads, int head_dim, const int* start, const int* end, const T* dout,
                             T* dq, T* dk, T* dv) {
  const int t = TOKEN, lane = threadIdx.x & 31, group = heads / kv_heads;
  if (t >= tokens || end[t] - start[t] != 1) return;
  for (int i = lane; i < heads * head_dim; i += 32) dq[(i64)t * heads * head_dim + i] = from_float<T>(0.0f);
  for (int i = lane; i < kv_heads * head_dim; i += 32) {
    const i64 at = (i64)t * kv_heads * head_dim + i;
    const T* row = dout + ((i64)t * heads + (i64)(i / head_dim) * group) * head_dim + i % head_dim;
    float sum = 0.0f;
    for (int g = 0; g < group; g++) sum += to_float(row[(i64)g * head_dim]);
    dk[at] = from_float<T>(0.0f);
    dv[at] = from_float<T>(sum);
  }
}
