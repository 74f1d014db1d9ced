// Memory of the native runtime: every allocation is known, so that programs can be checked against them.
#pragma once
#include <stddef.h>
#include <stdint.h>

// 64-byte aligned and zeroed; owner groups allocations for memory_free_all. 0 when there is not enough memory.
uint64_t memory_alloc(int64_t bytes, const void* owner);
bool memory_free(uint64_t address);
void memory_free_all(const void* owner);
