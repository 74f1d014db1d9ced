// Barriers in shared memory that threads arrive at without waiting (PTX: mbarrier, compute capability 8.0). A barrier goes through
// phases: one is over when as many threads as it counts have arrived. compute-sanitizer's racecheck knows these if every thread arrives
// for itself; what named barriers (bar.arrive) order, or one lane for its warp, are races to it.
#if __CUDA_ARCH__ >= 900
#define WAIT "try_wait"  // sleeps for a while
#define PAUSE
#else
#define WAIT "test_wait"
#define PAUSE __nanosleep(32)  // rather than take the others' turns
#endif
struct Barrier {
  u32 at;

  DEVICE void init(u32 threads) const {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(threads) : "memory");
  }
  // The thread is done with what others wait for.
  DEVICE void arrive() const {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(at) : "memory");
  }
  // Until phase `n`, the first being 0, is over. Only whether n is odd is looked at, so the phase that is on must be n or n + 1: it
  // cannot go further where those who wait have to arrive for that.
  DEVICE void wait(int n) const {
    u32 over = 0;
    while (true) {
      asm volatile("{\n.reg .pred over;\nmbarrier." WAIT ".parity.shared.b64 over, [%1], %2;\nselp.u32 %0, 1, 0, over;\n}"
                   : "=r"(over)
                   : "r"(at), "r"(n & 1)
                   : "memory");
      if (over) return;
      PAUSE;
    }
  }
};
