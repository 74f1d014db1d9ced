// The libuv functions that the node executable exports. Declared here: their header does not ship with Node-API's.
#pragma once
#include <stdint.h>

extern "C" {
typedef struct {
  alignas(16) char opaque[128];  // larger than every platform's semaphore
} uv_sem;
int uv_thread_create(uintptr_t* thread, void (*entry)(void*), void* argument);
int uv_thread_join(uintptr_t* thread);
int uv_sem_init(uv_sem* sem, unsigned value);
void uv_sem_post(uv_sem* sem);
void uv_sem_wait(uv_sem* sem);
void uv_sem_destroy(uv_sem* sem);
uint64_t uv_hrtime(void);
}
