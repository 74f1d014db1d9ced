// Rows of the tokens that have a label, made one dense matrix and spread out again. T: type of the rows.
// The tokens whose label is in [0, vocab), in order, then −1 up to `room`. One block of 1024 threads.
KERNEL labelled_rows(i64 tokens, i64 room, int vocab, const int* labels, int* rows) {
  __shared__ int counts[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  i64 found = 0;
  for (i64 start = 0; start < tokens; start += blockDim.x) {
    const i64 t = start + threadIdx.x;
    const bool mine = t < tokens && labels[t] >= 0 && labels[t] < vocab;
    const u32 mask = __ballot_sync(FULL_WARP, mine);
    if (lane == 0) counts[warp] = __popc(mask);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < 32; w++) {
      if (w < warp) before += counts[w];
      all += counts[w];
    }
    const i64 at = found + before + __popc(mask & ((1u << lane) - 1));
    if (mine && at < room) rows[at] = (int)t;
    found += all;
    __syncthreads();
  }
  for (i64 i = found + threadIdx.x; i < room; i += blockDim.x) rows[i] = -1;
}

// y[r] = x[rows[r]], zeros where there is no such row; one block a row.
KERNEL gather_rows(i64 d, const int* rows, const T* x, T* y) {
  const i64 r = blockIdx.x, token = rows[r];
  for (i64 j = (i64)threadIdx.x * V; j < d; j += (i64)blockDim.x * V) {
    Pack<T, V> p = {};
    if (token >= 0) p = load_pack<V>(x + token * d + j);
    store_pack<V>(y + r * d + j, p);
  }
}

// y[rows[r]] = x[r]; one block a row.
KERNEL scatter_rows(i64 d, const int* rows, const T* x, T* y) {
  const i64 r = blockIdx.x, token = rows[r];
  if (token < 0) return;
  for (i64 j = (i64)threadIdx.x * V; j < d; j += (i64)blockDim.x * V)
    store_pack<V>(y + token * d + j, load_pack<V>(x + r * d + j));
}
