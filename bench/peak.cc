// Prints the GFLOP/s of one core on independent f32 fused multiply-adds (best of many short runs).
#include <stdio.h>

#include <chrono>

#if defined(__AVX512F__)
enum { W = 16, FLOPS = 2 };
#elif defined(__AVX__)
enum { W = 8, FLOPS = 2 };
#else
enum { W = 4, FLOPS = 2 };
#endif
typedef float V __attribute__((vector_size(W * 4)));

int main() {
  const long steps = 2000000;
  double best = 0;
  for (int run = 0; run < 40; run++) {
    V sum[12] = {}, b = V{} + 0.999f, c = V{} + 1e-3f;
    const auto start = std::chrono::steady_clock::now();
    for (long n = 0; n < steps; n++) {
#pragma GCC unroll 12
      for (int i = 0; i < 12; i++) {
        sum[i] = sum[i] * b + c;
#if defined(__x86_64__)
        asm volatile("" : "+x"(sum[i]));  // no two steps may be merged
#elif defined(__aarch64__)
        asm volatile("" : "+w"(sum[i]));
#endif
      }
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double rate = steps * 12.0 * W * FLOPS / seconds / 1e9;
    if (rate > best) best = rate;
  }
  printf("%.1f\n", best);
}
