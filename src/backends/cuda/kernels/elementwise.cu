// Elementwise functions. T: type of x and y of unary kernels; A, B, Y: types of binary's operands and of cast's ends.
#ifndef A
#define A T
#define B T
#define Y T
#endif

DEVICE i64 global_id() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
#define FOR_EACH(i, n) for (i64 i = global_id(); i < (n); i += (i64)gridDim.x * blockDim.x)

DEVICE float sigmoidf(float x) { return 1.0f / (1.0f + expf(-x)); }
#define GELU_C 0.7978845608028654f
#define GELU_A 0.044715f
DEVICE float gelu_tanh(float x) { return 0.5f * x * (1.0f + tanhf(GELU_C * (x + GELU_A * x * x * x))); }
DEVICE float gelu_tanh_slope(float x) {
  const float t = tanhf(GELU_C * (x + GELU_A * x * x * x));
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * GELU_C * (1.0f + 3.0f * GELU_A * x * x);
}
DEVICE float gelu_erf(float x) { return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f)); }
DEVICE float gelu_erf_slope(float x) {
  return 0.5f * (1.0f + erff(x * 0.7071067811865476f)) + x * 0.3989422804014327f * expf(-0.5f * x * x);
}
DEVICE float log1mexp(float x) { return x > -0.6931472f ? logf(-expm1f(x)) : log1pf(-expf(x)); }

DEVICE float unary_value(int kind, float x, float c) {
  switch (kind) {
    case 0: return -x;
    case 1: return expf(x);
    case 2: return logf(x);
    case 3: return sigmoidf(x);
    case 4: return fminf(x, 0.0f) - log1pf(expf(-fabsf(x)));
    case 5: return fmaxf(x, 0.0f);
    case 6: return tanhf(x);
    case 7: return sqrtf(x);
    case 8: return fabsf(x);
    case 9: return x * x;
    case 10: return 1.0f / x;
    case 11: return x * sigmoidf(x);
    case 12: return gelu_tanh(x);
    case 13: return gelu_erf(x);
    case 14: return c * x;
    case 15: return c + x;
    case 16: return c * tanhf(x / c);
    case 17: return fmaxf(x, c);
    case 18: return fminf(x, c);
    case 19: return log1mexp(x);
    case 20: return rsqrtf(x);
    default: return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f;
  }
}
DEVICE float unary_slope(int kind, float x, float y, float c) {
  switch (kind) {
    case 0: return -1.0f;
    case 1: return y;
    case 2: return 1.0f / x;
    case 3: return y * (1.0f - y);
    case 4: return 1.0f - sigmoidf(x);
    case 5: return x > 0.0f ? 1.0f : 0.0f;
    case 6: return 1.0f - y * y;
    case 7: return 0.5f / y;
    case 8: return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f;
    case 9: return 2.0f * x;
    case 10: return -y * y;
    case 11: { const float s = sigmoidf(x); return s * (1.0f + x * (1.0f - s)); }
    case 12: return gelu_tanh_slope(x);
    case 13: return gelu_erf_slope(x);
    case 14: return c;
    case 15: return 1.0f;
    case 16: { const float t = y / c; return 1.0f - t * t; }
    case 17: return x > c ? 1.0f : 0.0f;
    case 18: return x < c ? 1.0f : 0.0f;
    case 19: return -1.0f / expm1f(-x);
    case 20: return -0.5f * y * y * y;
    default: return 0.0f;
  }
}

KERNEL unary(i64 n, int kind, float c, const T* x, T* y) {
  FOR_EACH(i, n) y[i] = from_float<T>(unary_value(kind, to_float(x[i]), c));
}
// f'(x) is taken from y where that is shorter, but bf16 y has lost digits that x still has: y is made again.
KERNEL unary_grad(i64 n, int kind, float c, const T* x, const T* dy, T* dx) {
  FOR_EACH(i, n) {
    const float v = to_float(x[i]);
    dx[i] = from_float<T>(to_float(dy[i]) * unary_slope(kind, v, unary_value(kind, v, c), c));
  }
}

DEVICE float binary_value(int kind, float a, float b) {
  switch (kind) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return a / b;
    case 4: return fmaxf(a, b);
    case 5: return fminf(a, b);
    case 6: return a > b ? 1.0f : 0.0f;
    default: return a == b ? 1.0f : 0.0f;
  }
}
DEVICE i64 spread(int mode, i64 i, i64 cols) { return mode == 0 ? i : mode == 1 ? i % cols : mode == 2 ? i / cols : 0; }

KERNEL binary(int kind, i64 n, i64 cols, const A* a, int a_mode, const B* b, int b_mode, Y* y) {
  FOR_EACH(i, n) {
    const float u = to_float(a[spread(a_mode, i, cols)]), v = to_float(b[spread(b_mode, i, cols)]);
    y[i] = from_float<Y>(binary_value(kind, u, v));
  }
}

KERNEL add(i64 n, const T* a, const T* b, T* y) {
  const i64 packs = n / 8;
  FOR_EACH(p, packs) {
    const Pack<T, 8> u = load_pack<8>(a + 8 * p), v = load_pack<8>(b + 8 * p);
    Pack<T, 8> w;
#pragma unroll
    for (int k = 0; k < 8; k++) w.v[k] = from_float<T>(to_float(u.v[k]) + to_float(v.v[k]));
    store_pack<8>(y + 8 * p, w);
  }
  FOR_EACH(r, n - 8 * packs) {
    const i64 i = 8 * packs + r;
    y[i] = from_float<T>(to_float(a[i]) + to_float(b[i]));
  }
}

// y = acc + alpha·x; acc may be 0.
KERNEL add_scaled(i64 n, float alpha, const T* x, const T* acc, T* y) {
  FOR_EACH(i, n) y[i] = from_float<T>((acc ? to_float(acc[i]) : 0.0f) + alpha * to_float(x[i]));
}

KERNEL cast(i64 n, const A* x, Y* y) {
  FOR_EACH(i, n) y[i] = from_float<Y>(to_float(x[i]));
}

// out[r] = bias (+ acc[r]): what a product with a bias adds to.
KERNEL add_bias(i64 n, i64 cols, const A* acc, const float* bias, Y* out) {
  FOR_EACH(i, n) out[i] = from_float<Y>(bias[i % cols] + (acc ? to_float(acc[i]) : 0.0f));
}

// Philox-4x32-10 (Salmon et al. 2011).
DEVICE void philox(u32 c[4], u32 k0, u32 k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u32 hi0 = __umulhi(0xD2511F53u, c[0]), lo0 = 0xD2511F53u * c[0];
    const u32 hi1 = __umulhi(0xCD9E8D57u, c[2]), lo1 = 0xCD9E8D57u * c[2];
    const u32 next[4] = {hi1 ^ c[1] ^ k0, lo1, hi0 ^ c[3] ^ k1, lo0};
#pragma unroll
    for (int i = 0; i < 4; i++) c[i] = next[i];
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
}
KERNEL dropout(i64 n, float keep_scale, u32 threshold, const u32* seed, i64 salt, const T* x, T* y) {
  FOR_EACH(q, (n + 3) / 4) {
    u32 c[4] = {(u32)q, (u32)(q >> 32), (u32)salt, (u32)(salt >> 32)};
    philox(c, seed[0], seed[1]);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const i64 i = 4 * q + k;
      if (i < n) y[i] = from_float<T>(c[k] >= threshold ? to_float(x[i]) * keep_scale : 0.0f);
    }
  }
}
