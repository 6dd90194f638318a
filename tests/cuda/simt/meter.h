// Counts what warps ask of memory. The lanes of a warp run one after the other; the n-th time that each of them passes
// a place of the program, between two points where all meet, is one instruction of the warp.
#pragma once
#include <cstdint>

#include "memory.h"

namespace simt {

// The running thread did this at a place of the program.
void meter_global(Access access, int allocation, uint64_t address, uint32_t size, const void* site);
void meter_shared(Access access, Path path, uint32_t offset, uint32_t size, const void* site);
void meter_flush(unsigned warp);
void meter_flush_all();

}  // namespace simt
