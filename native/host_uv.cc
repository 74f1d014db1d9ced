// Threads, sleeping and the clock from the libuv that the node executable exports: no other runtime library is needed.
#include "engine.h"
#include "pool.h"
#include "uv.h"

#if defined(_WIN32)
extern "C" __declspec(dllimport) int SwitchToThread(void);
static void give_way() { SwitchToThread(); }
#else
#include <sched.h>
static void give_way() { sched_yield(); }
#endif

namespace {

struct alignas(128) Thread {
  uv_sem wake;
  uintptr_t id;
};
Thread threads[MAX_THREADS];

void entry(void* argument) { pool_worker(static_cast<int>(reinterpret_cast<uintptr_t>(argument))); }

}  // namespace

bool host_start(int thread) {
  Thread& t = threads[thread];
  if (uv_sem_init(&t.wake, 0)) return false;
  if (!uv_thread_create(&t.id, entry, reinterpret_cast<void*>(static_cast<uintptr_t>(thread)))) return true;
  uv_sem_destroy(&t.wake);
  return false;
}

void host_join(int thread) {
  uv_thread_join(&threads[thread].id);
  uv_sem_destroy(&threads[thread].wake);
}

void host_sleep(int thread) { uv_sem_wait(&threads[thread].wake); }
void host_wake(int thread) { uv_sem_post(&threads[thread].wake); }
void host_pause(int32_t*, int32_t) { give_way(); }
void host_changed(int32_t*) {}
bool host_crashed() { return false; }  // it would have taken the process with it

double now_ns() { return static_cast<double>(uv_hrtime()); }
