// The Node-API side of the native runtime. Arguments are checked in src/backends/cpu/native.ts, the only caller.
#include <node_api.h>
#include <stdlib.h>

#include "engine.h"
#include "memory.h"
#include "pool.h"
#include "uv.h"

extern const KernelTable table_base;
#if defined(__x86_64__)
extern const KernelTable table_avx2, table_avx512;
#endif

namespace {

const KernelTable* tables[3];  // best first
int table_count = 0;

void find_tables() {
  table_count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    tables[table_count++] = &table_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
      __builtin_cpu_supports("bmi2"))
    tables[table_count++] = &table_avx2;
#endif
  tables[table_count++] = &table_base;
}

// The pool is the process's; programs of several runtimes or worker threads take turns.
uv_sem turn;
int32_t setup_lock = 0, environments = 0;

void lock_setup() {
  while (__atomic_exchange_n(&setup_lock, 1, __ATOMIC_ACQUIRE)) {
  }
}
void unlock_setup() { __atomic_store_n(&setup_lock, 0, __ATOMIC_RELEASE); }

struct Run {
  const KernelTable* table;
  int threads;
  const uint64_t* words;
  int64_t count;
  RunControl* control;
  double* timings;
  int64_t timed;
  napi_async_work work;
  napi_deferred deferred;
  napi_ref control_reference, timings_reference;  // keep the two buffers alive meanwhile
};

void execute(Run& run) {
  uv_sem_wait(&turn);
  pool_use(pool_reserve(run.threads));
  run_program(*run.table, run.words, run.count, *run.control, run.timings, run.timed);
  uv_sem_post(&turn);
}

int64_t integer(napi_env env, napi_value value) {
  int64_t x = 0;
  napi_get_value_int64(env, value, &x);
  return x;
}

napi_value number(napi_env env, double x) {
  napi_value value = nullptr;
  napi_create_double(env, x, &value);
  return value;
}

napi_value strings(napi_env env, int n, const char* (*at)(int)) {
  napi_value array = nullptr, text = nullptr;
  napi_create_array_with_length(env, static_cast<size_t>(n), &array);
  for (int i = 0; i < n; i++) {
    napi_create_string_utf8(env, at(i), NAPI_AUTO_LENGTH, &text);
    napi_set_element(env, array, static_cast<uint32_t>(i), text);
  }
  return array;
}

template <size_t N>
struct Arguments {
  napi_value values[N];
  Arguments(napi_env env, napi_callback_info info) {
    size_t n = N;
    napi_get_cb_info(env, info, &n, values, nullptr, nullptr);
  }
  napi_value operator[](size_t i) const { return values[i]; }
};

const KernelTable* table_at(int64_t i) { return tables[i < 0 || i >= table_count ? table_count - 1 : i]; }

// run(isa, threads, address, words, control, timings | undefined)
Run read_run(napi_env env, const Arguments<6>& a) {
  Run run = {};
  run.table = table_at(integer(env, a[0]));
  run.threads = static_cast<int>(integer(env, a[1]));
  run.words = reinterpret_cast<const uint64_t*>(static_cast<uintptr_t>(integer(env, a[2])));
  run.count = integer(env, a[3]);
  void* data = nullptr;
  size_t length = 0;
  napi_get_arraybuffer_info(env, a[4], &data, &length);
  run.control = static_cast<RunControl*>(data);
  bool timed = false;
  napi_is_typedarray(env, a[5], &timed);
  if (timed) {
    napi_get_typedarray_info(env, a[5], nullptr, &length, &data, nullptr, nullptr);
    run.timings = static_cast<double*>(data), run.timed = static_cast<int64_t>(length);
  }
  return run;
}

napi_value run_sync(napi_env env, napi_callback_info info) {
  Run run = read_run(env, Arguments<6>(env, info));
  execute(run);
  return nullptr;
}

void complete(napi_env env, napi_status, void* data) {
  Run* run = static_cast<Run*>(data);
  napi_value nothing = nullptr;
  napi_get_undefined(env, &nothing);
  napi_resolve_deferred(env, run->deferred, nothing);
  napi_delete_reference(env, run->control_reference);
  if (run->timings_reference) napi_delete_reference(env, run->timings_reference);
  napi_delete_async_work(env, run->work);
  free(run);
}

napi_value run_async(napi_env env, napi_callback_info info) {
  const Arguments<6> a(env, info);
  Run* run = static_cast<Run*>(malloc(sizeof(Run)));
  if (!run) return napi_throw_error(env, nullptr, "out of memory"), nullptr;
  *run = read_run(env, a);
  napi_value promise = nullptr, name = nullptr;
  napi_create_reference(env, a[4], 1, &run->control_reference);
  if (run->timings) napi_create_reference(env, a[5], 1, &run->timings_reference);
  napi_create_promise(env, &run->deferred, &promise);
  napi_create_string_utf8(env, "unsloth program", NAPI_AUTO_LENGTH, &name);
  napi_create_async_work(env, nullptr, name, [](napi_env, void* data) { execute(*static_cast<Run*>(data)); }, complete,
                         run, &run->work);
  napi_queue_async_work(env, run->work);
  return promise;
}

// workspace(isa, threads, opcode, words: ArrayBuffer) → bytes, −1: no such kernel
napi_value workspace(napi_env env, napi_callback_info info) {
  const Arguments<4> a(env, info);
  void* data = nullptr;
  size_t length = 0;
  napi_get_arraybuffer_info(env, a[3], &data, &length);
  const int64_t bytes = kernel_workspace(*table_at(integer(env, a[0])), integer(env, a[2]), static_cast<Arg*>(data),
                                         static_cast<int64_t>(length / 8), static_cast<int>(integer(env, a[1])));
  return number(env, static_cast<double>(bytes));
}

napi_value alloc(napi_env env, napi_callback_info info) {
  const Arguments<1> a(env, info);
  return number(env, static_cast<double>(memory_alloc(integer(env, a[0]), env)));
}

napi_value release(napi_env env, napi_callback_info info) {
  const Arguments<1> a(env, info);
  memory_free(static_cast<uint64_t>(integer(env, a[0])));
  return nullptr;
}

// view(address, bytes) → ArrayBuffer over that memory, owned by the runtime: detach it before the memory is freed.
napi_value view(napi_env env, napi_callback_info info) {
  const Arguments<2> a(env, info);
  napi_value buffer = nullptr;
  const napi_status status =
      napi_create_external_arraybuffer(env, reinterpret_cast<void*>(static_cast<uintptr_t>(integer(env, a[0]))),
                                       static_cast<size_t>(integer(env, a[1])), nullptr, nullptr, &buffer);
  if (status != napi_ok)
    return napi_throw_error(env, nullptr, "this JavaScript engine allows no external memory"), nullptr;
  return buffer;
}

napi_value detach(napi_env env, napi_callback_info info) {
  const Arguments<1> a(env, info);
  napi_detach_arraybuffer(env, a[0]);
  return nullptr;
}

void cleanup(void* env) {
  memory_free_all(env);
  lock_setup();
  if (--environments == 0) {  // the library may be unloaded after the last one: no thread may be left in its code
    pool_stop();
    uv_sem_destroy(&turn);
  }
  unlock_setup();
}

}  // namespace

NAPI_MODULE_INIT() {
  lock_setup();
  if (environments++ == 0) {
    uv_sem_init(&turn, 1);
    find_tables();
  }
  unlock_setup();
  napi_add_env_cleanup_hook(env, cleanup, env);
  const napi_property_descriptor functions[] = {
      {"run", nullptr, run_async, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"runSync", nullptr, run_sync, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"workspace", nullptr, workspace, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"alloc", nullptr, alloc, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"free", nullptr, release, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"view", nullptr, view, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"detach", nullptr, detach, nullptr, nullptr, nullptr, napi_default, nullptr},
  };
  napi_define_properties(env, exports, sizeof(functions) / sizeof(functions[0]), functions);
  napi_set_named_property(env, exports, "isas", strings(env, table_count, [](int i) { return tables[i]->isa; }));
  napi_set_named_property(env, exports, "kernels", strings(env, kernel_count(), kernel_name));
  napi_set_named_property(env, exports, "signatures", strings(env, kernel_count(), kernel_arguments));
  return exports;
}
