// Rotary embedding of q and k (rope.cu) with k and v written to the cache: a block a token. T: type of activations; C: type of
// the cache; V: neighbouring pairs that a thread takes together.
template <class X> DEVICE Pack<X, V> converted(const float (&x)[V]) {
  Pack<X, V> y;
#pragma unroll
  for (int i = 0; i < V; i++) y.v[i] = from_float<X>(x[i]);
  return y;
}

KERNEL rope_cache(int heads, int kv_heads, int D, const T* q, const T* k, const T* v, const float* table, int max_positions,
                  const int* positions, const int* slots, i64 capacity, T* q_out, C* keys, C* values) {
  start_next();
  wait_for_previous();
  const i64 t = blockIdx.x, slot = slots[t];
  const int half = D / 2, runs = half / V, position = positions[t];
  const bool known = position >= 0 && position < max_positions, kept = slot >= 0 && slot < capacity;
  for (int e = threadIdx.x; e < (heads + kv_heads) * runs; e += blockDim.x) {
    const int head = e / runs, j = e % runs * V;
    const bool is_q = head < heads;
    const i64 from = is_q ? (t * heads + head) * D + j : (t * kv_heads + head - heads) * D + j;
    const T* x = is_q ? q : k;
    float a[V] = {}, b[V] = {};
    if (known) {
      const Pack<T, V> low = load_pack<V>(x + from), high = load_pack<V>(x + from + half);
      const Pack<float, V> c = load_pack<V>(table + (i64)position * D + j), s = load_pack<V>(table + (i64)position * D + half + j);
#pragma unroll
      for (int i = 0; i < V; i++) {
        const float u = to_float(low.v[i]), w = to_float(high.v[i]);
        a[i] = u * c.v[i] - w * s.v[i], b[i] = w * c.v[i] + u * s.v[i];
      }
    }
    if (is_q) {
      store_pack<V>(q_out + from, converted<T>(a)), store_pack<V>(q_out + from + half, converted<T>(b));
    } else if (kept) {
      C* to = keys + (slot * kv_heads + head - heads) * D + j;
      store_pack<V>(to, converted<C>(a)), store_pack<V>(to + half, converted<C>(b));
    }
  }
  if (!kept) return;
  for (int e = threadIdx.x; e < kv_heads * D / V; e += blockDim.x) {
    const Pack<T, V> x = load_pack<V>(v + t * kv_heads * D + V * e);
    float y[V];
#pragma unroll
    for (int i = 0; i < V; i++) y[i] = to_float(x.v[i]);
    store_pack<V>(values + slot * kv_heads * D + V * e, converted<C>(y));
  }
}
