// Small kernels that keep or break one rule each, for test_simt.py.
#include "cuda/launch.h"
#include "cuda/types.h"

namespace tts::cuda {

struct ProbeParams {
  const void* in;
  void* out;
  int32_t* counter;
  int64_t n;
};

__device__ __forceinline__ const float* floats(const ProbeParams& p) { return static_cast<const float*>(p.in); }
__device__ __forceinline__ float* results(const ProbeParams& p) { return static_cast<float*>(p.out); }
__device__ __forceinline__ int thread_number() { return int(blockIdx.x * blockDim.x + threadIdx.x); }

// n: how many elements lie between those of two threads.
__global__ void strided_kernel(const ProbeParams p) {
  const int t = thread_number();
  results(p)[t] = floats(p)[t * p.n];
}

// n: how many bytes to shift by.
__global__ void wide_kernel(const ProbeParams p) {
  const int t = thread_number();
  const auto* in = reinterpret_cast<const Vec16*>(static_cast<const char*>(p.in) + p.n);
  static_cast<Vec16*>(p.out)[t] = in[t];
}

__global__ void spoil_input_kernel(const ProbeParams p) { *static_cast<float*>(const_cast<void*>(p.in)) = 1.0f; }

// n: 1 to wait for the copies.
__global__ void copy_kernel(const ProbeParams p) {
  TTS_SHARED_MEMORY(memory);
  auto* slots = reinterpret_cast<Vec16*>(memory);
  const int t = int(threadIdx.x);
  ptx::copy_async_16(&slots[t], static_cast<const Vec16*>(p.in) + t, true);
  ptx::commit_copies();
  if (p.n != 0) ptx::wait_copies<0>();
  __syncthreads();
  static_cast<Vec16*>(p.out)[t] = slots[blockDim.x - 1 - t];
}

// Starts to fill a slot again that another thread may still read; n: 1 with a barrier between.
__global__ void refill_kernel(const ProbeParams p) {
  TTS_SHARED_MEMORY(memory);
  auto* slots = reinterpret_cast<Vec16*>(memory);
  const int t = int(threadIdx.x), last = int(blockDim.x) - 1;
  for (int i = 0; i < 2; ++i) {
    if (i > 0 && p.n != 0) __syncthreads();
    ptx::copy_async_16(&slots[t], static_cast<const Vec16*>(p.in) + t, true);
    ptx::commit_copies();
    ptx::wait_copies<0>();
    if (i == 0) __syncthreads();
    if (i == 0) static_cast<Vec16*>(p.out)[t] = slots[last - t];
  }
}

// The source changes while the copy is under way: the result tells when it landed. Two groups, waited for in turn.
__global__ void landing_kernel(const ProbeParams p) {
  TTS_SHARED_MEMORY(memory);
  auto* words = reinterpret_cast<float*>(memory);
  auto* source = static_cast<float*>(p.out);
  for (int i = 0; i < 2; ++i) {
    ptx::copy_async_4(&words[i], &source[i], true);
    ptx::commit_copies();
  }
  ptx::copy_async_4(&words[2], &source[2], false);
  ptx::commit_copies();
  source[0] += 100.0f;
  ptx::wait_copies<2>();
  source[0] += 100.0f;
  source[1] += 100.0f;
  ptx::wait_copies<0>();
  for (int i = 0; i < 3; ++i) source[4 + i] = words[i];
}

// Reads what the thread n further stored; counter: 0 no barrier, 1 of the warp, 2 of the block.
__global__ void neighbour_kernel(const ProbeParams p) {
  TTS_SHARED_MEMORY(memory);
  auto* values = reinterpret_cast<uint16_t*>(memory);
  const int t = int(threadIdx.x);
  values[t] = 0;
  __syncthreads();
  values[t] = uint16_t(t);
  if (*p.counter == 1) __syncwarp();
  if (*p.counter == 2) __syncthreads();
  results(p)[t] = values[(t + p.n) % blockDim.x];
}

// Halves of warps exchange apart, with masks of their own.
__global__ void halves_kernel(const ProbeParams p) {
  TTS_SHARED_MEMORY(memory);
  auto* values = reinterpret_cast<int*>(memory);
  const int t = int(threadIdx.x);
  const unsigned half = t % 32 < 16 ? 0xffffu : 0xffff0000u;
  values[t] = t;
  __syncwarp(half);
  results(p)[t] = float(values[t ^ 1] + __shfl_xor_sync(half, t, int(p.n)));
}

// n: 0 by plain loads, 1 by ldmatrix.
__global__ void unwritten_kernel(const ProbeParams p) {
  TTS_SHARED_MEMORY(memory);
  uint32_t words[4] = {};
  if (p.n == 0) words[0] = reinterpret_cast<uint32_t*>(memory)[threadIdx.x];
  else ptx::load_matrices(words, ptx::shared_address(memory + 16 * threadIdx.x));
  static_cast<uint32_t*>(p.out)[threadIdx.x] = words[0];
}

// n: 0 lanes at different operations, 1 at different masks, 2 one has exited, 3 lanes that wait for each other,
// 4 half of the threads leave before a barrier, which is allowed.
__global__ void divergent_kernel(const ProbeParams p) {
  const int t = int(threadIdx.x);
  int got = 0;
  if (p.n == 0) got = t % 32 < 16 ? __shfl_xor_sync(~0u, t, 1) : int(__ballot_sync(~0u, t));
  if (p.n == 1) got = __any_sync(t % 32 < 16 ? 0xffffu : ~0u, t);
  if (p.n == 2 && t == 5) return;
  if (p.n == 2) got = __all_sync(~0u, t);
  if (p.n == 3 && t == 0) __syncwarp();
  if (p.n == 4 && t % 2 == 1) return;
  __syncthreads();
  results(p)[t] = float(got);
}

// Words n apart in shared memory.
__global__ void banks_kernel(const ProbeParams p) {
  TTS_SHARED_MEMORY(memory);
  reinterpret_cast<float*>(memory)[threadIdx.x * p.n] = 1.0f;
}

// 32 rows of 128 bytes by copies, then as matrices; n: 1 with the 16-byte columns of row r permuted by r % 8.
template <bool transposed>
__global__ void matrices_kernel(const ProbeParams p) {
  TTS_SHARED_MEMORY(memory);
  const int t = int(threadIdx.x), swizzle = p.n != 0 ? 7 : 0;
  const auto place = [&](int row, int column) { return memory + 128 * row + 16 * (column ^ (row & swizzle)); };
  for (int i = t; i < 256; i += 32) ptx::copy_async_16(place(i / 8, i % 8), static_cast<const Vec16*>(p.in) + i, true);
  ptx::commit_copies();
  ptx::wait_copies<0>();
  __syncwarp();
  for (int column = 0; column < 8; ++column) {
    uint32_t words[4];
    if constexpr (transposed) ptx::load_matrices_transposed(words, ptx::shared_address(place(t, column)));
    else ptx::load_matrices(words, ptx::shared_address(place(t, column)));
    for (int m = 0; m < 4; ++m) static_cast<uint32_t*>(p.out)[(column * 4 + m) * 32 + t] = words[m];
  }
}

// in: a [16, 16] then b [8, 16], by rows of 16-bit elements; out: c [16, 8]. n: 1 float16, else bfloat16.
__global__ void multiply_kernel(const ProbeParams p) {
  const int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
  const auto* pairs = static_cast<const uint32_t*>(p.in);
  const uint32_t a[4] = {pairs[g * 8 + t], pairs[(g + 8) * 8 + t], pairs[g * 8 + t + 4], pairs[(g + 8) * 8 + t + 4]};
  const uint32_t b0 = pairs[128 + g * 8 + t], b1 = pairs[128 + g * 8 + t + 4];
  float* c = results(p) + g * 8 + 2 * t;
  float sums[4] = {c[0], c[1], c[64], c[65]};
  if (p.n != 0) ptx::multiply_half(sums, a, b0, b1);
  else ptx::multiply_bfloat16(sums, a, b0, b1);
  c[0] = sums[0];
  c[1] = sums[1];
  c[64] = sums[2];
  c[65] = sums[3];
}

// out: of each float of in, float16 and bfloat16 bits, what the former stands for, and 2 to its power.
__global__ void convert_kernel(const ProbeParams p) {
  const int t = thread_number();
  if (t >= p.n) return;
  const float x = floats(p)[t];
  auto* out = static_cast<uint32_t*>(p.out) + 4 * t;
  out[0] = ptx::pack_half(x, 0.0f);
  out[1] = ptx::pack_bfloat16(0.0f, x);
  results(p)[4 * t + 2] = ptx::float_of_half(uint16_t(out[0]));
  results(p)[4 * t + 3] = ptx::exp2_approx(x);
}

// Blocks leave their sums in out[1 ...]; the last one to be done adds them up in out[0].
__global__ void last_done_kernel(const ProbeParams p) {
  TTS_SHARED_MEMORY(memory);
  auto* sum = reinterpret_cast<int*>(memory);
  const int t = int(threadIdx.x), blocks = int(gridDim.x);
  if (t == 0) *sum = 0;
  __syncthreads();
  atomicAdd(sum, thread_number());
  __syncthreads();
  if (t != 0) return;
  results(p)[1 + blockIdx.x] = float(*sum);
  if (ptx::add_acquire_release(p.counter, 1) != blocks - 1) return;
  float total = 0.0f;
  for (int i = 0; i < blocks; ++i) total += ptx::load_past_l1(&results(p)[1 + i]);
  results(p)[0] = total;
}

// n: 0 an index that passes 2^31, 1 a shift by the width, 2 a number that no int holds.
__global__ void undefined_kernel(const ProbeParams p) {
  const int big = 1 << *p.counter;
  if (p.n == 0) results(p)[0] = float(big * 4);
  if (p.n == 1) results(p)[0] = float(1 << (*p.counter + 2));
  if (p.n == 2) results(p)[0] = float(int(float(big) * 4.0f));
}

// In which order the threads came by.
__global__ void order_kernel(const ProbeParams p) { results(p)[threadIdx.x] = float(atomicAdd(p.counter, 1)); }

#define PROBE(name, ...)                                                                            \
  extern "C" int probe_##name(const ProbeParams* p, unsigned blocks, int threads, unsigned bytes) { \
    return launch(__VA_ARGS__, {blocks}, threads, bytes, nullptr, *p);                              \
  }
PROBE(strided, strided_kernel)
PROBE(wide, wide_kernel)
PROBE(spoil_input, spoil_input_kernel)
PROBE(copy, copy_kernel)
PROBE(refill, refill_kernel)
PROBE(landing, landing_kernel)
PROBE(neighbour, neighbour_kernel)
PROBE(halves, halves_kernel)
PROBE(unwritten, unwritten_kernel)
PROBE(divergent, divergent_kernel)
PROBE(banks, banks_kernel)
PROBE(matrices, matrices_kernel<false>)
PROBE(matrices_transposed, matrices_kernel<true>)
PROBE(multiply, multiply_kernel)
PROBE(convert, convert_kernel)
PROBE(last_done, last_done_kernel)
PROBE(undefined, undefined_kernel)
PROBE(order, order_kernel)

}  // namespace tts::cuda
