// What is known of each byte of shared memory: who wrote and who read it, and when.
#pragma once
#include <cstdint>

#include "memory.h"

namespace simt {

// Aligned to 1024 bytes, as large as any device's.
unsigned char* shadow_memory();
constexpr uint32_t kMaxSharedBytes = 227 * 1024;

void shadow_start_block();
// All threads of the block are past a barrier.
void shadow_barrier();
// These lanes are past a __syncwarp.
void shadow_sync_warp(unsigned warp, unsigned lanes);
// The running thread touches bytes offset .. offset + size.
void shadow_touch(Access access, uint32_t offset, uint32_t size);
// The running thread starts, or has waited for, a copy of whole words.
void shadow_start_copy(uint32_t offset, uint32_t size);
void shadow_land_copy(uint32_t offset, uint32_t size);
// Products of warpgroups may read what the running thread wrote so far, once it is past a barrier.
void shadow_publish();
void shadow_expect_published(uint32_t offset, uint32_t size);

}  // namespace simt
