// Fork-join pool on libuv threads: no other runtime library is needed at link time.
//
// The thread that calls parallel_run is thread 0 and works too. A worker that has finished spins a moment, then yields
// for some milliseconds (the next instruction is usually a few microseconds away), then sleeps on its own semaphore.
// Workers beyond the number in use are simply not called, so the number can change between programs at no cost.
#include "pool_uv.h"

#include "engine.h"
#include "uv.h"

#if defined(_WIN32)
extern "C" __declspec(dllimport) int SwitchToThread(void);
static void give_way() { SwitchToThread(); }
#else
#include <sched.h>
static void give_way() { sched_yield(); }
#endif

static inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

namespace {

enum { MAX_THREADS = 256, SPINS = 300, YIELD_US = 3000 };

struct alignas(128) Worker {
  uv_sem wake;
  uintptr_t thread;
  uint32_t called;   // written by the caller: how many jobs this worker has been given
  uint32_t sleeping;
};

Worker workers[MAX_THREADS];  // [0] is the caller's and unused
int existing = 1;             // threads there are, the caller included
int in_use = 1;
bool stopping = false;

// The job. Written before the workers are called, read after.
void (*job)(void*, int64_t, int);
void* job_argument;
int64_t job_size;
alignas(128) int64_t next_index;
alignas(128) int32_t busy;  // workers that have not finished the job

template <class Done>
bool wait_until(const Done& done, int64_t microseconds) {
  for (int i = 0; i < SPINS; i++) {
    if (done()) return true;
    relax();
  }
  const uint64_t end = uv_hrtime() + static_cast<uint64_t>(microseconds) * 1000;
  do {
    for (int i = 0; i < 8; i++) {
      if (done()) return true;
      give_way();
    }
  } while (uv_hrtime() < end);
  return done();
}

void work(int thread) {
  for (;;) {
    const int64_t i = __atomic_fetch_add(&next_index, 1, __ATOMIC_RELAXED);
    if (i >= job_size) return;
    job(job_argument, i, thread);
  }
}

void call(Worker& w) {
  __atomic_fetch_add(&w.called, 1, __ATOMIC_SEQ_CST);
  // Whoever clears the flag owns the wake-up, so the semaphore is posted exactly once for a sleep.
  if (__atomic_load_n(&w.sleeping, __ATOMIC_SEQ_CST) && __atomic_exchange_n(&w.sleeping, 0, __ATOMIC_SEQ_CST))
    uv_sem_post(&w.wake);
}

void worker_main(void* argument) {
  const int thread = static_cast<int>(reinterpret_cast<uintptr_t>(argument));
  Worker& w = workers[thread];
  for (uint32_t seen = 0;;) {
    const auto was_called = [&] { return __atomic_load_n(&w.called, __ATOMIC_SEQ_CST) != seen; };
    while (!wait_until(was_called, YIELD_US)) {
      __atomic_store_n(&w.sleeping, 1, __ATOMIC_SEQ_CST);
      // A call that came before the flag was set has not posted: take the flag back. If it is gone, a post is due.
      if (was_called() && __atomic_exchange_n(&w.sleeping, 0, __ATOMIC_SEQ_CST)) break;
      uv_sem_wait(&w.wake);
    }
    seen++;
    if (__atomic_load_n(&stopping, __ATOMIC_SEQ_CST)) return;
    work(thread);
    __atomic_fetch_sub(&busy, 1, __ATOMIC_SEQ_CST);
  }
}

}  // namespace

int pool_reserve(int threads) {
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  for (; existing < threads; existing++) {
    Worker& w = workers[existing];
    w.called = 0, w.sleeping = 0;
    if (uv_sem_init(&w.wake, 0)) break;
    if (uv_thread_create(&w.thread, worker_main, reinterpret_cast<void*>(static_cast<uintptr_t>(existing)))) {
      uv_sem_destroy(&w.wake);
      break;
    }
  }
  return existing < threads ? existing : threads;
}

void pool_stop() {
  __atomic_store_n(&stopping, true, __ATOMIC_SEQ_CST);
  for (int t = 1; t < existing; t++) call(workers[t]);
  for (int t = 1; t < existing; t++) {
    uv_thread_join(&workers[t].thread);
    uv_sem_destroy(&workers[t].wake);
  }
  existing = in_use = 1;
  stopping = false;
}

void pool_use(int threads) { in_use = threads < 1 ? 1 : threads > existing ? existing : threads; }

int num_threads() { return workspace_threads ? workspace_threads : in_use; }

double now_ns() { return static_cast<double>(uv_hrtime()); }

void parallel_run(int64_t n, void (*f)(void*, int64_t, int), void* arg) {
  const int threads = in_use < n ? in_use : static_cast<int>(n < 1 ? 1 : n);
  if (threads == 1) {
    for (int64_t i = 0; i < n; i++) f(arg, i, 0);
    return;
  }
  job = f, job_argument = arg, job_size = n;
  __atomic_store_n(&next_index, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&busy, threads - 1, __ATOMIC_RELAXED);
  for (int t = 1; t < threads; t++) call(workers[t]);
  work(0);
  // A worker may have lost its core to another process; yielding gives it ours.
  while (!wait_until([] { return !__atomic_load_n(&busy, __ATOMIC_ACQUIRE); }, YIELD_US)) {
  }
}
