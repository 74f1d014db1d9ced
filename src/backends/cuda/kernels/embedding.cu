// Token vectors and row gathers. T: type of activations; W: type of the table.
// V elements a thread at a time (-DV): the table may be in host memory, where single accesses are slow.
KERNEL embedding(i64 d, i64 vocab, int transposed, const W* table, const int* ids, float scale, T* out) {
  const i64 t = blockIdx.x;
  const int id = ids[t];
  const bool known = id >= 0 && id < vocab;
  if (transposed || !known) {
    for (i64 j = threadIdx.x; j < d; j += blockDim.x)
      out[t * d + j] = from_float<T>(known ? scale * to_float(table[j * vocab + id]) : 0.0f);
    return;
  }
  for (i64 j = (i64)threadIdx.x * V; j < d; j += (i64)blockDim.x * V) {
    const Pack<W, V> p = load_pack<V>(table + (i64)id * d + j);
    Pack<T, V> y;
#pragma unroll
    for (int k = 0; k < V; k++) y.v[k] = from_float<T>(scale * to_float(p.v[k]));
    store_pack<V>(out + t * d + j, y);
  }
}

// One block a token; the first token with an id adds up all rows of that id, in order. dW holds acc already.
KERNEL embedding_grad(i64 tokens, i64 d, i64 vocab, int transposed, const T* dy, const int* ids, float scale, float* dw) {
  const i64 t = blockIdx.x;
  const int id = ids[t];
  if (id < 0 || id >= vocab) return;
  int earlier = 0;
  for (i64 s = threadIdx.x; s < t; s += blockDim.x) earlier |= ids[s] == id;
  if (__syncthreads_or(earlier)) return;
  for (i64 j = threadIdx.x; j < d; j += blockDim.x) {
    float* target = dw + (transposed ? j * vocab + id : (i64)id * d + j);
    float sum = *target;
    for (i64 s = t; s < tokens; s++) if (ids[s] == id) sum += scale * to_float(dy[s * d + j]);
    *target = sum;
  }
}

KERNEL select_rows(i64 d, i64 rows, const T* x, const int* index, T* out) {
  const int row = index[blockIdx.x];
  const bool known = row >= 0 && row < rows;
  for (i64 j = threadIdx.x; j < d; j += blockDim.x)
    out[blockIdx.x * d + j] = known ? x[row * d + j] : from_float<T>(0.0f);
}

// As embedding_grad, over rows: dx holds acc already.
KERNEL select_rows_grad(i64 n, i64 d, i64 rows, const T* dy, const int* index, T* dx) {
  const i64 i = blockIdx.x;
  const int row = index[i];
  if (row < 0 || row >= rows) return;
  int earlier = 0;
  for (i64 s = threadIdx.x; s < i; s += blockDim.x) earlier |= index[s] == row;
  if (__syncthreads_or(earlier)) return;
  for (i64 j = threadIdx.x; j < d; j += blockDim.x) {
    float sum = to_float(dx[row * d + j]);
    for (i64 s = i; s < n; s++) if (index[s] == row) sum += to_float(dy[s * d + j]);
    dx[row * d + j] = from_float<T>(sum);
  }
}
