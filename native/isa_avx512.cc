// The kernels for AVX-512 F, BW, DQ and VL (x86-64-v4); scripts/build.mjs passes the flags.
#define NS isa_avx512
#define W 16
#include "kernels/all.inc"

extern const KernelTable table_avx512;
const KernelTable table_avx512 = {"avx512", NS::kernels};
