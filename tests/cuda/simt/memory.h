// Every access of a kernel to memory passes here.
#pragma once
#include <cstddef>
#include <cstdint>

#include "simt.h"

namespace simt {

enum class Access : int { kLoad, kStore, kAtomic };

void set_allocations(const Allocation* allocations, int count);
// Whether allocations were given, so that launches are kept.
bool recording();
// Where the fibers' stacks are: accesses to them are nobody else's business.
void set_stacks(const unsigned char* begin, size_t bytes);
// A row of 16 bytes for ldmatrix, by its address in shared memory; returns where it is.
const unsigned char* check_matrix_row(uint32_t row, const void* site);
// The same of 16 bytes that a product of a warpgroup reads, which its threads must have published.
const unsigned char* check_operand(uint32_t chunk);

}  // namespace simt
