// Checks and runs programs (vm.h).
#include "engine.h"

#include "kernels/list.h"

__thread int workspace_threads = 0;

namespace {

struct Signature {
  const char* name;
  const char* letters;
  int count;       // words
  char kinds[64];  // one letter a word: i, f or p
};

constexpr Signature signature(const char* name, const char* letters) {
  Signature s = {name, letters, 0, {}};
  const char* weight = "ippppfi";
  static_assert(WEIGHT_WORDS == 7, "a letter for each word of a weight");
  for (const char* c = letters; *c; c++) {
    if (*c == 'W')
      for (const char* w = weight; *w; w++) s.kinds[s.count++] = *w;
    else if (*c != ' ')
      s.kinds[s.count++] = *c;
  }
  return s;
}

#define SIGNATURE(name, arguments) signature(#name, arguments),
constexpr Signature signatures[] = {KERNEL_LIST(SIGNATURE, SIGNATURE)};
constexpr int kernels_known = sizeof(signatures) / sizeof(signatures[0]);

struct Instruction {
  int64_t opcode, count;
  uint64_t workspace;
  const Arg* arguments;
};

Instruction decode(const uint64_t* words) {
  return {static_cast<int64_t>(words[0] & 0xffffffffu), static_cast<int64_t>(words[0] >> 32), words[1],
          reinterpret_cast<const Arg*>(words + 2)};
}

void fail(RunControl& control, Fault fault, int64_t instruction, int64_t detail) {
  control.fault = fault, control.instruction = instruction, control.detail = detail;
}

bool check(const KernelTable& table, const uint64_t* words, int64_t total, RunControl& control) {
  int64_t index = 0;
  for (int64_t at = 0; at < total; index++) {
    if (total - at < 2) return fail(control, FAULT_TRUNCATED, index, 2), false;
    const Instruction in = decode(words + at);
    if (in.opcode >= kernels_known) return fail(control, FAULT_OPCODE, index, in.opcode), false;
    const Kernel& kernel = table.kernels[in.opcode];
    const Signature& s = signatures[in.opcode];
    if (in.count != s.count) return fail(control, FAULT_ARGUMENTS, index, in.opcode << 32 | in.count), false;
    if (total - at < 2 + in.count) return fail(control, FAULT_TRUNCATED, index, 2 + in.count), false;
    for (int i = 0; i < s.count; i++) {
      const uint64_t address = in.arguments[i].u;
      if (s.kinds[i] == 'p' && address && !memory_holds(address, 0))
        return fail(control, FAULT_ADDRESS, index, static_cast<int64_t>(address)), false;
    }
    const int64_t need = kernel.workspace ? kernel.workspace(in.arguments) : 0;
    if (need > 0 && !memory_holds(in.workspace, need)) return fail(control, FAULT_WORKSPACE, index, need), false;
    at += 2 + in.count;
  }
  return true;
}

}  // namespace

int kernel_count() { return kernels_known; }
const char* kernel_name(int opcode) { return signatures[opcode].name; }
const char* kernel_arguments(int opcode) { return signatures[opcode].letters; }

void run_program(const KernelTable& table, const uint64_t* words, int64_t total, RunControl& control, double* timings,
                 int64_t timed) {
  control.fault = FAULT_NONE, control.instruction = 0, control.detail = 0;
  if (!memory_holds(reinterpret_cast<uintptr_t>(words), total * 8))
    return fail(control, FAULT_PROGRAM, 0, static_cast<int64_t>(reinterpret_cast<uintptr_t>(words)));
  if (!check(table, words, total, control)) return;
  int64_t index = 0;
  double before = timings ? now_ns() : 0;
  for (int64_t at = 0; at < total; index++) {
    if (__atomic_load_n(&control.cancel, __ATOMIC_RELAXED)) return fail(control, FAULT_CANCELLED, index, 0);
    const Instruction in = decode(words + at);
    table.kernels[in.opcode].run(in.arguments, reinterpret_cast<void*>(static_cast<uintptr_t>(in.workspace)));
    if (timings) {
      const double after = now_ns();
      if (index < timed) timings[index] = after - before;
      before = after;
    }
    at += 2 + in.count;
  }
  control.instruction = index;
}

int64_t kernel_workspace(const KernelTable& table, int64_t opcode, const Arg* arguments, int64_t count, int threads) {
  if (opcode < 0 || opcode >= kernels_known || count != signatures[opcode].count) return -1;
  const Kernel& kernel = table.kernels[opcode];
  if (!kernel.workspace) return 0;
  int64_t most = 0;
  for (workspace_threads = 1; workspace_threads <= threads; workspace_threads++) {
    const int64_t bytes = kernel.workspace(arguments);
    if (bytes > most) most = bytes;
  }
  workspace_threads = 0;
  return most;
}
