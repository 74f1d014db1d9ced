// The kernels for AVX2, FMA, F16C and BMI2 (x86-64-v3); scripts/build.mjs passes the flags.
#define NS isa_avx2
#define W 8
#include "kernels/all.inc"

extern const KernelTable table_avx2;
const KernelTable table_avx2 = {"avx2", NS::kernels};
