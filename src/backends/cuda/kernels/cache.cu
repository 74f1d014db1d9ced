// Keys and values kept for decoding. T: type of activations; C: type of the cache.
KERNEL kv_write(i64 d, i64 capacity, const T* x, const int* slots, C* cache) {
  start_next();
  wait_for_previous();
  const i64 slot = slots[blockIdx.x];
  if (slot < 0 || slot >= capacity) return;
  for (i64 j = threadIdx.x; j < d; j += blockDim.x) cache[slot * d + j] = from_float<C>(to_float(x[blockIdx.x * d + j]));
}
