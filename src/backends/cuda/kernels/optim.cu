// AdamW (Loshchilov & Hutter 2019) in PyTorch's order, and bitsandbytes' blockwise 8-bit AdamW.
// hyper: lr, β1, β2, ε, weight decay, 1−β1^t, √(1−β2^t).
// 1 − β as Python computes it: from the decimal that was meant (at most seven digits), not from its f32.
DEVICE float complement(float beta) { return (float)(1.0 - (double)(i64)((double)beta * 1e7 + 0.5) / 1e7); }
DEVICE float decay_factor(float lr, float decay) { return (float)(1.0 - (double)lr * decay); }

// Tensors that one launch works on, in columns as they are passed: the parameter block holds 4 KB. Tensor t has the blocks of
// BLOCK elements from first[t] on; `blocks` is their number together.
#define MANY 56
#define BLOCK 256
DEVICE int tensor_of(const i64* first, int count, i64 block) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (first[middle] <= block) low = middle;
    else high = middle - 1;
  }
  return low;
}

struct Plain { float* param[MANY]; const float* grad[MANY]; float* m[MANY]; float* v[MANY]; i64 n[MANY]; i64 first[MANY]; i64 count, blocks; };

KERNEL adamw(const __grid_constant__ Plain all, const float* hyper, const float* factor, int decay) {
  const float lr = hyper[0], beta1 = hyper[1], beta2 = hyper[2], eps = hyper[3], c1 = hyper[5], c2 = hyper[6];
  const float rest1 = complement(beta1), rest2 = complement(beta2);
  const float keep = decay ? decay_factor(lr, hyper[4]) : 1.0f, clip = factor ? factor[0] : 1.0f;
  // A norm that is not finite leaves everything as it was.
  if (!(fabsf(clip) < INF) || clip == 0.0f) return;
  for (i64 block = blockIdx.x; block < all.blocks; block += gridDim.x) {
    const int t = tensor_of(all.first, (int)all.count, block);
    const i64 i = (block - all.first[t]) * BLOCK + threadIdx.x;
    if (i >= all.n[t]) continue;
    float *param = all.param[t], *m = all.m[t], *v = all.v[t];
    const float g = all.grad[t][i] * clip, m1 = fmaf(g - m[i], rest1, m[i]), v1 = fmaf(g * g, rest2, v[i] * beta2);
    m[i] = m1, v[i] = v1;
    param[i] = param[i] * keep - lr / c1 * m1 / (sqrtf(v1) / c2 + eps);
  }
}

struct Spans { u8* data[MANY]; i64 n[MANY]; i64 first[MANY]; i64 count, blocks; };

// Zeros; n in words of 4 bytes.
KERNEL clear(const __grid_constant__ Spans all) {
  for (i64 block = blockIdx.x; block < all.blocks; block += gridDim.x) {
    const int t = tensor_of(all.first, (int)all.count, block);
    const i64 i = (block - all.first[t]) * BLOCK + threadIdx.x;
    if (i < all.n[t]) reinterpret_cast<u32*>(all.data[t])[i] = 0;
  }
}

// Entry nearest to x of an ascending map of 256: a midpoint itself goes to the even code.
DEVICE int nearest_code(const float* threshold, float x) {
  int code = 0;
#pragma unroll
  for (int step = 128; step > 0; step >>= 1)
    if (x > threshold[code + step - 1]) code += step;
  return code;
}

struct EightBit {
  float* param[MANY]; const float* grad[MANY]; u8* q1[MANY]; float* absmax1[MANY]; u8* q2[MANY]; float* absmax2[MANY];
  i64 n[MANY]; i64 first[MANY]; i64 count, blocks;
};

// 256 threads a block of 256 elements: m = q1·a1·β1 + (1−β1)g, v = q2·a2·β2 + (1−β2)g²,
// p −= lr·(c2/c1)·m/(√v + c2·ε), then p ×= 1 − lr·wd. A code for m whose sign is not m's moves by one. Where the gradient is
// not finite p stays and both states become 0.
KERNEL adamw8bit(const __grid_constant__ EightBit all, const float* map1, const float* map2, const float* hyper,
                 const float* factor, int decay) {
  __shared__ float values1[256], values2[256], threshold1[256], threshold2[256];
  const int id = threadIdx.x;
  values1[id] = map1[id], values2[id] = map2[id];
  for (int which = 0; which < 2; which++) {
    const float* map = which ? map2 : map1;
    float middle = id < 255 ? __fmul_rn(__fadd_rn(map[id], map[id + 1]), 0.5f) : INF;
    if ((id & 1) && id < 255) middle = __int_as_float(__float_as_int(middle) + (middle > 0.0f ? -1 : 1));
    (which ? threshold2 : threshold1)[id] = middle;
  }
  __syncthreads();
  const float lr = hyper[0], beta1 = hyper[1], beta2 = hyper[2], c1 = hyper[5], c2 = hyper[6];
  // 1 − β in f32, as bitsandbytes has it.
  const float keep = decay ? decay_factor(lr, hyper[4]) : 1.0f, clip = factor ? factor[0] : 1.0f;
  const float rest1 = 1.0f - beta1, rest2 = 1.0f - beta2, step = -lr * c2 / c1, eps = c2 * hyper[3];
  if (!(fabsf(clip) < INF) || clip == 0.0f) return;
  for (i64 at = blockIdx.x; at < all.blocks; at += gridDim.x) {
    const int t = tensor_of(all.first, (int)all.count, at);
    const i64 block = at - all.first[t], i = block * 256 + id;
    u8 *q1 = all.q1[t], *q2 = all.q2[t];
    float *absmax1 = all.absmax1[t], *absmax2 = all.absmax2[t], *param = all.param[t];
    const bool inside = i < all.n[t];
    float m = 0.0f, v = 0.0f;
    if (inside) {
      const float raw = all.grad[t][i], g = raw * clip, p = param[i];
      if (fabsf(raw) < INF) {
        m = fmaf(__fmul_rn(values1[q1[i]], absmax1[block]), beta1, g * rest1);
        v = fmaf(__fmul_rn(values2[q2[i]], absmax2[block]), beta2, g * rest2 * g);
        param[i] = fmaf(m / (sqrtf(v) + eps), step, p) * keep;
      }
    }
    __syncthreads();  // every thread has read the old scales
    const float top1 = block_max(fabsf(m)), top2 = block_max(v);
    if (id == 0) absmax1[block] = top1, absmax2[block] = top2;
    if (!inside) continue;
    int code = top1 > 0.0f ? nearest_code(threshold1, m / top1) : 0;
    if (signbit(values1[code]) != signbit(m)) code += m > 0.0f ? 1 : -1;
    q1[i] = (u8)code;
    q2[i] = (u8)(top2 > 0.0f ? nearest_code(threshold2, v / top2) : 0);
  }
}
