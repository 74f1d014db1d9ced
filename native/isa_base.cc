// The kernels for every target: SSE2 on x86-64, NEON on arm64, SIMD128 in WebAssembly.
#define NS isa_base
#define W 4
#include "kernels/all.inc"

extern const KernelTable table_base;
const KernelTable table_base = {"base", NS::kernels};
