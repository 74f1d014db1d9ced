// The contract between a compiled program and the kernels that run it.
//
// A program is a flat array of 64-bit words. Each instruction is
//   word 0        opcode (low 32 bits) | number of arguments (high 32 bits)
//   word 1        address of its workspace (0 when it needs none)
//   word 2 …      arguments: integers, doubles or addresses, in the order kernels/README.md gives
// Addresses are absolute (native) or offsets into linear memory (WebAssembly); 0 means "absent".
// A kernel allocates nothing, keeps no state between calls, and its result does not depend on the number of threads.
#pragma once
#include <stddef.h>
#include <stdint.h>

union Arg {
  int64_t i;
  double f;
  uint64_t u;
  template <class T> T* ptr() const { return reinterpret_cast<T*>(static_cast<uintptr_t>(u)); }
};
static_assert(sizeof(Arg) == 8, "a program word is 64 bits");

// How a matrix is stored. Everything but F32 is decoded to f32 while it is packed or gathered.
enum WeightType : int64_t {
  W_F32 = 0,
  W_BF16 = 1,
  W_F16 = 2,
  W_NF4 = 3,     // two codes a byte, high nibble first; absmax: f32 per block of `block` elements of the flat array
  W_NF4_DQ = 4,  // absmax: u8 per block; value = map[absmax[b]] * nested[b / 256] + offset
  W_INT8 = 5,    // a signed code a byte; absmax: f32 scale per block of `block` elements; value = code * absmax[b]
};

// A weight occupies WEIGHT_WORDS consecutive arguments: type, data, absmax, nested, map, offset (double), block.
enum { WEIGHT_WORDS = 7 };
struct Weight {
  WeightType type;
  const void* data;
  const void* absmax;
  const float* nested;
  const float* map;
  float offset;
  int64_t block;
  int64_t ld;  // stored row length in elements
};
static inline Weight weight_at(const Arg* a, int64_t ld) {
  return {static_cast<WeightType>(a[0].i), a[1].ptr<const void>(), a[2].ptr<const void>(), a[3].ptr<const float>(),
          a[4].ptr<const float>(), static_cast<float>(a[5].f), a[6].i, ld};
}

// Fork-join over [0, n): f(index, thread). Indices go to threads in any order; a kernel must not depend on it.
// No nesting. Implemented once natively (libuv threads of the node process) and once for WebAssembly (atomics).
int num_threads();
void parallel_run(int64_t n, void (*f)(void*, int64_t, int), void* arg);
template <class F> static inline void parallel_for(int64_t n, const F& f) {
  parallel_run(n, [](void* p, int64_t i, int t) { (*static_cast<const F*>(p))(i, t); }, const_cast<F*>(&f));
}

struct Kernel {
  const char* name;
  void (*run)(const Arg* a, void* workspace);
  int64_t (*workspace)(const Arg* a);  // bytes for these arguments (pointers may be 0 here); null: none
};

// One table per instruction set; entry k is the kernel of opcode k (order: kernels/list.h).
struct KernelTable {
  const char* isa;
  const Kernel* kernels;
};
