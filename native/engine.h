// Between the program runner and its two hosts: the Node-API addon (addon.cc) and WebAssembly (wasm.cc).
#pragma once
#include "vm.h"

// Shared with JavaScript, which reads and writes it by these offsets (src/backends/cpu/control.ts).
struct RunControl {
  int32_t cancel;       // 0: set to 1 by another thread to stop before the next instruction
  int32_t fault;        // Fault
  int64_t instruction;  // where the fault is; without a fault, the number of instructions run
  int64_t detail;       // what was found there
};
static_assert(sizeof(RunControl) == 24, "JavaScript relies on this layout");

enum Fault : int32_t {
  FAULT_NONE = 0,
  FAULT_TRUNCATED = 1,  // detail: words the instruction needs
  FAULT_OPCODE = 2,     // detail: the opcode
  FAULT_ARGUMENTS = 3,  // detail: opcode << 32 | argument count
  FAULT_ADDRESS = 4,    // detail: the address
  FAULT_WORKSPACE = 5,  // detail: bytes the kernel needs
  FAULT_CANCELLED = 6,
  FAULT_PROGRAM = 7,  // the program itself is not in allocated memory; detail: its address
};

// Checks a whole program, then runs it. timings, if any, receives nanoseconds for the first `timed` instructions.
void run_program(const KernelTable& table, const uint64_t* words, int64_t count, RunControl& control, double* timings,
                 int64_t timed);

// Bytes of workspace that kernel `opcode` needs for these arguments with any number of threads up to `threads`;
// −1: no such kernel.
int64_t kernel_workspace(const KernelTable& table, int64_t opcode, const Arg* arguments, int64_t count, int threads);

int kernel_count();
const char* kernel_name(int opcode);
const char* kernel_arguments(int opcode);  // list.h's letters, spaces included

// From the host.
bool memory_holds(uint64_t address, int64_t bytes);  // is [address, address + bytes) inside allocated memory?
double now_ns();
extern __thread int workspace_threads;  // when not 0: what num_threads() answers on this thread
