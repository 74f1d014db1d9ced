// Gated linear units (Shazeer 2020): h = act(gate)·up, and both gradients in one pass. T: type of all arrays.
DEVICE void act_of(int act, float x, float& value, float& slope) {
  if (act == 0) {
    const float s = 1.0f / (1.0f + __expf(-x));
    value = x * s, slope = s * (1.0f + x * (1.0f - s));
  } else if (act == 1) {
    const float c = 0.7978845608028654f, a = 0.044715f, t = tanhf(c * (x + a * x * x * x));
    value = 0.5f * x * (1.0f + t), slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * c * (1.0f + 3.0f * a * x * x);
  } else {
    const float phi = 0.5f * (1.0f + erff(x * 0.7071067811865476f));
    value = x * phi, slope = phi + x * 0.3989422804014327f * expf(-0.5f * x * x);
  }
}

KERNEL glu(i64 n, int act, const T* gate, const T* up, T* h) {
  const i64 id = (i64)blockIdx.x * blockDim.x + threadIdx.x, stride = (i64)gridDim.x * blockDim.x, packs = n / 8;
  float value, slope;
  for (i64 p = id; p < packs; p += stride) {
    const Pack<T, 8> g = load_pack<8>(gate + 8 * p), u = load_pack<8>(up + 8 * p);
    Pack<T, 8> y;
#pragma unroll
    for (int k = 0; k < 8; k++) act_of(act, to_float(g.v[k]), value, slope), y.v[k] = from_float<T>(value * to_float(u.v[k]));
    store_pack<8>(h + 8 * p, y);
  }
  for (i64 i = 8 * packs + id; i < n; i += stride) {
    act_of(act, to_float(gate[i]), value, slope);
    h[i] = from_float<T>(value * to_float(up[i]));
  }
}

KERNEL glu_grad(i64 n, int act, const T* gate, const T* up, const T* dh, T* dgate, T* dup) {
  const i64 id = (i64)blockIdx.x * blockDim.x + threadIdx.x, stride = (i64)gridDim.x * blockDim.x, packs = n / 8;
  float value, slope;
  for (i64 p = id; p < packs; p += stride) {
    const Pack<T, 8> g = load_pack<8>(gate + 8 * p), u = load_pack<8>(up + 8 * p), d = load_pack<8>(dh + 8 * p);
    Pack<T, 8> dg, du;
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const float dy = to_float(d.v[k]);
      act_of(act, to_float(g.v[k]), value, slope);
      dg.v[k] = from_float<T>(dy * to_float(u.v[k]) * slope), du.v[k] = from_float<T>(dy * value);
    }
    store_pack<8>(dgate + 8 * p, dg), store_pack<8>(dup + 8 * p, du);
  }
  for (i64 i = 8 * packs + id; i < n; i += stride) {
    const float dy = to_float(dh[i]), u = to_float(up[i]);
    act_of(act, to_float(gate[i]), value, slope);
    dgate[i] = from_float<T>(dy * u * slope), dup[i] = from_float<T>(dy * value);
  }
}
