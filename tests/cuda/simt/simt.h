// Runs CUDA kernels that the host's compiler translated: a fiber per thread, warps of 32, one block after the other.
// What a caller outside sees, in C, for ctypes.
#pragma once
#include <cstdint>

namespace simt {

// A tensor that the next launches may use: addresses begin .. end.
struct Allocation {
  const char* name;
  uintptr_t begin, end;
  uint64_t writable;
};

// Of one allocation in one launch. A request is one instruction of one warp; a sector is 32 bytes, aligned.
struct Traffic {
  uint64_t load_bytes, store_bytes, load_requests, store_requests, load_sectors, store_sectors;
  // Requests with 16 bytes a lane, loads and stores.
  uint64_t wide_requests;
  // Of single threads.
  uint64_t atomics;
};

// Of shared memory. A wavefront is what the 32 banks serve at once; ideal is what the same accesses need at least.
struct SharedTraffic {
  uint64_t load_bytes, store_bytes, requests, wavefronts, ideal;
};

enum Path : int { kPlain, kCopied, kMatrix, kPaths };
constexpr int kMaxAllocations = 64;

struct Launch {
  const char* kernel;
  const char* symbol;
  uint64_t grid[3];
  uint64_t threads, shared_bytes, races;
  SharedTraffic shared[kPaths];
  Traffic traffic[kMaxAllocations];
};

}  // namespace simt

extern "C" {

using SimtExecutor = int (*)(const char* symbol, const uint32_t grid[3], uint32_t threads, uint64_t shared_bytes,
                             const void* params, uint64_t params_size);

// Launches go to the executor, with the mangled name of the kernel; null: back to fibers.
void simt_set_executor(SimtExecutor executor);
// early: copies land when they start, else when they are waited for. seed 0: threads in order, else in random order.
void simt_set_mode(int early, unsigned seed);
void simt_count(int on);
// What compute_capability() answers.
void simt_set_capability(int capability);
// All that kernels may touch in the launches from here on; null: anything. Forgets earlier launches and errors.
void simt_allocations(const simt::Allocation* allocations, int count);
// Why the last launch that failed did; empty when none has since simt_allocations.
const char* simt_error();
// Launches since simt_allocations, and the i-th of them.
int simt_num_launches();
const simt::Launch* simt_launch(int i);
}
