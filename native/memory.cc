#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "uv.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

struct Allocation {
  uint64_t address;
  int64_t bytes;
  void* raw;        // what calloc returned
  int64_t mapped;   // bytes mapped by mmap at raw; 0: calloc
  const void* owner;
};

// Sorted by address. Programs have few, large allocations.
Allocation* list = nullptr;
int64_t count = 0, capacity = 0;
int32_t lock_word = 0;

struct Lock {
  Lock() {
    while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE)) {
    }
  }
  ~Lock() { __atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE); }
};

// Index of the first allocation whose address is greater.
int64_t after(uint64_t address) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t mid = (low + high) / 2;
    if (list[mid].address <= address)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

void release(const Allocation& a) {
#if defined(__linux__)
  if (a.mapped) {
    munmap(a.raw, static_cast<size_t>(a.mapped));
    return;
  }
#endif
  free(a.raw);
}

const int64_t HUGE_PAGE = 2 << 20;

bool reserve(Allocation& a) {
#if defined(__linux__)
  if (a.bytes >= HUGE_PAGE) {  // 2 MiB pages: a product walks many rows at once and would miss the TLB on each
    a.mapped = (a.bytes + 2 * HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    a.raw = mmap(nullptr, static_cast<size_t>(a.mapped), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (a.raw == MAP_FAILED) return false;
    a.address = (reinterpret_cast<uintptr_t>(a.raw) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    madvise(reinterpret_cast<void*>(a.address), static_cast<size_t>(a.bytes), MADV_HUGEPAGE);
    return true;
  }
#endif
  a.mapped = 0;
  a.raw = calloc(1, static_cast<size_t>(a.bytes) + 64);
  a.address = (reinterpret_cast<uintptr_t>(a.raw) + 63) / 64 * 64;
  return a.raw != nullptr;
}

}  // namespace

uint64_t memory_alloc(int64_t bytes, const void* owner) {
  if (bytes < 0 || bytes > (int64_t{1} << 46)) return 0;
  Allocation a = {0, bytes, nullptr, 0, owner};
  if (!reserve(a)) return 0;
  Lock lock;
  if (count == capacity) {
    const int64_t larger = capacity ? 2 * capacity : 64;
    Allocation* grown = static_cast<Allocation*>(realloc(list, static_cast<size_t>(larger) * sizeof(Allocation)));
    if (!grown) {
      release(a);
      return 0;
    }
    list = grown, capacity = larger;
  }
  const int64_t at = after(a.address);
  memmove(list + at + 1, list + at, static_cast<size_t>(count - at) * sizeof(Allocation));
  list[at] = a;
  count++;
  return a.address;
}

bool memory_free(uint64_t address) {
  Lock lock;
  const int64_t at = after(address) - 1;
  if (at < 0 || list[at].address != address) return false;
  release(list[at]);
  memmove(list + at, list + at + 1, static_cast<size_t>(count - at - 1) * sizeof(Allocation));
  count--;
  return true;
}

void memory_free_all(const void* owner) {
  Lock lock;
  int64_t kept = 0;
  for (int64_t i = 0; i < count; i++) {
    if (list[i].owner == owner)
      release(list[i]);
    else
      list[kept++] = list[i];
  }
  count = kept;
}

bool memory_holds(uint64_t address, int64_t bytes) {
  Lock lock;
  const int64_t at = after(address) - 1;
  if (at < 0 || bytes < 0) return false;
  const int64_t offset = static_cast<int64_t>(address - list[at].address);
  return offset <= list[at].bytes && bytes <= list[at].bytes - offset;
}
