// Fork-join pool.
//
// The thread that calls parallel_run is thread 0 and works too. A worker that has finished spins a moment, then pauses
// for some milliseconds (the next instruction is usually a few microseconds away), then sleeps until it is called.
// Workers beyond the number in use are simply not called, so the number can change between programs at no cost.
#include "pool.h"

#include "engine.h"

namespace {

#if defined(__wasm__)
enum { SPINS = 10000 };  // WebAssembly has no instruction to relax with, so its turns are short
#else
enum { SPINS = 300 };
#endif
const double PATIENCE_NS = 3e6;

struct alignas(128) Worker {
  int32_t called;    // written by the caller: how many jobs this worker has been given
  int32_t sleeping;  // whoever clears it owns the wake-up, so there is exactly one for a sleep
};

Worker workers[MAX_THREADS];  // [0] is the caller's and unused
int existing = 1;             // threads there are, the caller included
int in_use = 1;
bool stopping = false;

// The job: written before the workers are called, read after.
void (*job)(void*, int64_t, int);
void* job_argument;
int64_t job_size;
alignas(128) int64_t next_index;
alignas(128) int32_t busy;  // workers that have not finished the job

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline int32_t read(int32_t* word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }

// Until *word differs from value: true; after PATIENCE_NS: false.
bool differs(int32_t* word, int32_t value) {
  for (int i = 0; i < SPINS; i++) {
    if (read(word) != value) return true;
    relax();
  }
  const double end = now_ns() + PATIENCE_NS;
  do {
    for (int i = 0; i < 8; i++) {
      if (read(word) != value) return true;
      host_pause(word, value);
    }
  } while (now_ns() < end);
  return read(word) != value;
}

void work(int thread) {
  for (;;) {
    const int64_t i = __atomic_fetch_add(&next_index, 1, __ATOMIC_RELAXED);
    if (i >= job_size) return;
    job(job_argument, i, thread);
  }
}

void call(int thread) {
  Worker& w = workers[thread];
  __atomic_fetch_add(&w.called, 1, __ATOMIC_SEQ_CST);
  host_changed(&w.called);
  if (read(&w.sleeping) && __atomic_exchange_n(&w.sleeping, 0, __ATOMIC_SEQ_CST)) host_wake(thread);
}

}  // namespace

void pool_worker(int thread) {
  Worker& w = workers[thread];
  for (int32_t seen = 0;; seen++) {
    while (!differs(&w.called, seen)) {
      __atomic_store_n(&w.sleeping, 1, __ATOMIC_SEQ_CST);
      // A call that came before the flag was set has not woken us: take the flag back. If it is gone, a wake-up is due.
      if (read(&w.called) != seen && __atomic_exchange_n(&w.sleeping, 0, __ATOMIC_SEQ_CST)) break;
      host_sleep(thread);
    }
    if (__atomic_load_n(&stopping, __ATOMIC_SEQ_CST)) return;
    work(thread);
    if (__atomic_fetch_sub(&busy, 1, __ATOMIC_SEQ_CST) == 1) host_changed(&busy);
  }
}

int pool_reserve(int threads) {
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  while (existing < threads && host_start(existing)) existing++;
  return existing < threads ? existing : threads;
}

void pool_stop() {
  __atomic_store_n(&stopping, true, __ATOMIC_SEQ_CST);
  for (int t = 1; t < existing; t++) call(t);
  for (int t = 1; t < existing; t++) {
    host_join(t);
    workers[t] = {};
  }
  existing = in_use = 1;
  stopping = false;
}

void pool_use(int threads) { in_use = threads < 1 ? 1 : threads > existing ? existing : threads; }

int num_threads() { return workspace_threads ? workspace_threads : in_use; }

void parallel_run(int64_t n, void (*f)(void*, int64_t, int), void* arg) {
  const int threads = in_use < n ? in_use : static_cast<int>(n);
  if (threads <= 1) {
    for (int64_t i = 0; i < n; i++) f(arg, i, 0);
    return;
  }
  job = f, job_argument = arg, job_size = n;
  __atomic_store_n(&next_index, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&busy, threads - 1, __ATOMIC_RELAXED);
  for (int t = 1; t < threads; t++) call(t);
  work(0);
  for (int32_t left; (left = read(&busy)) != 0;)
    if (!differs(&busy, left) && host_crashed()) __builtin_trap();
}
