// The WebAssembly side of the runtime: memory, threads by atomics, and the functions src/backends/cpu/wasm.ts calls.
// Every thread is an instance of this module over one shared memory, with a stack and thread-local block of its own.
#include "engine.h"
#include "pool.h"

extern const KernelTable table_base;
extern "C" unsigned char __heap_base;

#define EXPORT(name) __attribute__((export_name(#name))) extern "C"

__attribute__((import_module("env"), import_name("now_ms"))) extern "C" double now_ms();
double now_ns() { return 1e6 * now_ms(); }

// Memory: blocks lie one after another, each behind a header of one cache line. Only the main thread allocates.
namespace {

enum : uint64_t { PAGE = 65536, LINE = 64 };

struct alignas(LINE) Block {
  uint32_t lines;     // of the contents, without this header
  uint32_t previous;  // address of the block before; 0: none
  bool used;
};
static_assert(sizeof(Block) == LINE, "a header is one line");

uint64_t heap_start() { return (reinterpret_cast<uintptr_t>(&__heap_base) + LINE - 1) / LINE * LINE; }
uint64_t heap_end = 0;  // end of the last block; 0 before the first allocation
uint32_t last = 0;      // address of the last block
uint64_t touched = 0;   // memory from here on has never been handed out: it is zero, and costs nothing yet

Block* block_at(uint64_t address) { return reinterpret_cast<Block*>(static_cast<uintptr_t>(address)); }
uint64_t end_of(uint64_t address) { return address + LINE + block_at(address)->lines * LINE; }

bool reach(uint64_t end) {
  const uint64_t size = __builtin_wasm_memory_size(0) * PAGE;
  return end <= size || __builtin_wasm_memory_grow(0, (end - size + PAGE - 1) / PAGE) != static_cast<size_t>(-1);
}

// Cuts a free block to the wanted size, leaving the rest as a free block of its own.
void cut(uint64_t address, uint32_t lines) {
  Block* b = block_at(address);
  if (b->lines <= lines + 1) return;
  const uint64_t rest = address + LINE + lines * LINE, after = end_of(address);
  *block_at(rest) = {static_cast<uint32_t>(b->lines - lines - 1), static_cast<uint32_t>(address), false};
  b->lines = lines;
  if (address == last)
    last = static_cast<uint32_t>(rest);
  else
    block_at(after)->previous = static_cast<uint32_t>(rest);
}

// Joins a free block with the one behind it, if that is free too.
void join(uint64_t address) {
  if (address == last) return;
  const uint64_t next = end_of(address);
  if (block_at(next)->used) return;
  block_at(address)->lines += 1 + block_at(next)->lines;
  if (next == last)
    last = static_cast<uint32_t>(address);
  else
    block_at(end_of(next))->previous = static_cast<uint32_t>(address);
}

uint64_t first_fit(uint32_t lines) {
  for (uint64_t at = heap_start(); at < heap_end; at = end_of(at))
    if (!block_at(at)->used && block_at(at)->lines >= lines) return at;
  return 0;
}

uint64_t append(uint32_t lines) {
  uint64_t at = heap_end ? heap_end : heap_start();
  uint32_t previous = last;
  if (last && !block_at(last)->used) at = last, previous = block_at(last)->previous;  // the free end grows
  const uint64_t end = at + LINE + lines * LINE;
  if (end > (uint64_t{1} << 32) - PAGE || !reach(end)) return 0;
  *block_at(at) = {lines, previous, false};
  last = static_cast<uint32_t>(at);
  __atomic_store_n(&heap_end, end, __ATOMIC_RELEASE);
  return at;
}

}  // namespace

bool memory_holds(uint64_t address, int64_t bytes) {
  const uint64_t end = __atomic_load_n(&heap_end, __ATOMIC_ACQUIRE);
  return bytes >= 0 && address >= heap_start() && address <= end && static_cast<uint64_t>(bytes) <= end - address;
}

// Zeroed memory on a line boundary; 0 when there is not enough.
EXPORT(alloc) uint32_t wasm_alloc(double bytes) {
  if (bytes > 4294967296.0) return 0;
  const uint32_t lines = static_cast<uint32_t>((static_cast<uint64_t>(bytes) + LINE - 1) / LINE);
  uint64_t at = first_fit(lines);
  if (!at) at = append(lines);
  if (!at) return 0;
  cut(at, lines);
  block_at(at)->used = true;
  const uint64_t start = at + LINE, end = start + lines * LINE;
  if (start < touched) __builtin_memset(block_at(start), 0, (end < touched ? end : touched) - start);
  if (end > touched) touched = end;
  return static_cast<uint32_t>(at + LINE);
}

EXPORT(free) void wasm_free(uint32_t address) {
  uint64_t at = address - LINE;
  block_at(at)->used = false;
  join(at);
  const uint32_t previous = block_at(at)->previous;
  if (previous && !block_at(previous)->used) join(previous);
}

// Threads are started by JavaScript, which calls `worker`; one is part of the pool from the moment it gets here.
namespace {
int32_t arrived[MAX_THREADS];
int32_t wake_ups[MAX_THREADS];
bool crashed = false;
const int64_t PAUSE_NS = 200000;
}  // namespace

bool host_start(int thread) { return __atomic_load_n(&arrived[thread], __ATOMIC_SEQ_CST) != 0; }
void host_join(int) {}

// In a function of its own: code that V8's first compiler (seen in 11.3, Node 20) makes for this instruction overwrites
// the caller's locals, so that a loop around it would wait at address 0 the second time.
static __attribute__((noinline)) void wait(int32_t* word, int32_t value, int64_t ns) {
  __builtin_wasm_memory_atomic_wait32(word, value, ns);
}

void host_sleep(int thread) {
  for (;;) {
    int32_t n = __atomic_load_n(&wake_ups[thread], __ATOMIC_SEQ_CST);
    if (n == 0)
      wait(&wake_ups[thread], 0, -1);
    else if (__atomic_compare_exchange_n(&wake_ups[thread], &n, n - 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
      return;
  }
}

void host_wake(int thread) {
  __atomic_fetch_add(&wake_ups[thread], 1, __ATOMIC_SEQ_CST);
  __builtin_wasm_memory_atomic_notify(&wake_ups[thread], 1);
}

void host_pause(int32_t* word, int32_t value) { wait(word, value, PAUSE_NS); }
void host_changed(int32_t* word) { __builtin_wasm_memory_atomic_notify(word, 1); }

bool host_crashed() { return __atomic_load_n(&crashed, __ATOMIC_RELAXED); }

// A worker calls it when a kernel trapped, so that nobody waits for it.
EXPORT(crash) void wasm_crash() { __atomic_store_n(&crashed, true, __ATOMIC_SEQ_CST); }

EXPORT(worker) void wasm_worker(int thread) {
  __atomic_store_n(&arrived[thread], 1, __ATOMIC_SEQ_CST);
  pool_worker(thread);
}

EXPORT(run) void wasm_run(int threads, const uint64_t* words, double count, RunControl* control, double* timings,
                          double timed) {
  pool_use(pool_reserve(threads));
  run_program(table_base, words, static_cast<int64_t>(count), *control, timings, static_cast<int64_t>(timed));
}

EXPORT(workspace) double wasm_workspace(int threads, int opcode, const Arg* arguments, int count) {
  return static_cast<double>(kernel_workspace(table_base, opcode, arguments, count, threads));
}

EXPORT(kernelCount) int wasm_kernel_count() { return kernel_count(); }
EXPORT(kernelName) const char* wasm_kernel_name(int opcode) { return kernel_name(opcode); }
EXPORT(kernelArguments) const char* wasm_kernel_arguments(int opcode) { return kernel_arguments(opcode); }
