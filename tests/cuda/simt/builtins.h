// The words that nvcc adds to C++, for kernels compiled by the host's compiler. Each CUDA thread is a fiber, see
// simt.h.
#pragma once
#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__
#define __launch_bounds__(...)

// Not to be instrumented: they are no part of the kernel.
#define SIMT_UNSEEN __attribute__((always_inline, no_sanitize("thread"))) inline

namespace simt {

struct Dim {
  unsigned x, y, z;
};
enum class Shuffle : int { kIndex, kXor, kDown, kUp };
enum class Vote : int { kBallot, kAny, kAll };

// Constant while a thread lives, which is the life of one call of a kernel.
Dim thread_index() __attribute__((const));
Dim block_index() __attribute__((const));
Dim block_size() __attribute__((const));
Dim grid_size() __attribute__((const));
unsigned char* shared_memory() __attribute__((const));

void sync_block();
void sync_warp(unsigned mask);
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int lane, int width);
// Bits of the lanes whose predicate holds.
unsigned vote(Vote kind, unsigned mask, bool predicate);

template <class T>
SIMT_UNSEEN T shuffle_any(Shuffle kind, unsigned mask, T value, int lane, int width) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = shuffle(kind, mask, bits, lane, width);
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace simt

#define threadIdx (::simt::thread_index())
#define blockIdx (::simt::block_index())
#define blockDim (::simt::block_size())
#define gridDim (::simt::grid_size())
#define warpSize 32

SIMT_UNSEEN void __syncthreads() { simt::sync_block(); }
SIMT_UNSEEN void __syncwarp(unsigned mask = 0xffffffffu) { simt::sync_warp(mask); }
// Threads run one at a time and see each other's stores at once.
SIMT_UNSEEN void __threadfence() {}
SIMT_UNSEEN void __threadfence_block() {}

template <class T>
SIMT_UNSEEN T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return simt::shuffle_any(simt::Shuffle::kIndex, mask, value, lane, width);
}
template <class T>
SIMT_UNSEEN T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return simt::shuffle_any(simt::Shuffle::kXor, mask, value, lanes, width);
}
template <class T>
SIMT_UNSEEN T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
  return simt::shuffle_any(simt::Shuffle::kDown, mask, value, int(lanes), width);
}
template <class T>
SIMT_UNSEEN T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
  return simt::shuffle_any(simt::Shuffle::kUp, mask, value, int(lanes), width);
}
SIMT_UNSEEN unsigned __ballot_sync(unsigned mask, int predicate) {
  return simt::vote(simt::Vote::kBallot, mask, predicate != 0);
}
SIMT_UNSEEN int __any_sync(unsigned mask, int predicate) {
  return simt::vote(simt::Vote::kAny, mask, predicate != 0) != 0;
}
SIMT_UNSEEN int __all_sync(unsigned mask, int predicate) {
  return simt::vote(simt::Vote::kAll, mask, predicate != 0) == mask;
}

// Global or shared memory; each returns what was there. Defined in memory.cpp.
#define SIMT_ATOMICS(T)       \
  T atomicAdd(T* p, T value); \
  T atomicMax(T* p, T value); \
  T atomicMin(T* p, T value); \
  T atomicOr(T* p, T value);  \
  T atomicAnd(T* p, T value);
SIMT_ATOMICS(int)
SIMT_ATOMICS(unsigned)
SIMT_ATOMICS(unsigned long long)
#undef SIMT_ATOMICS
float atomicAdd(float* p, float value);
double atomicAdd(double* p, double value);

SIMT_UNSEEN int __popc(unsigned x) { return __builtin_popcount(x); }
SIMT_UNSEEN int __ffs(int x) { return __builtin_ffs(x); }
SIMT_UNSEEN int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
SIMT_UNSEEN unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
SIMT_UNSEEN float __fdiv_rn(float a, float b) { return a / b; }
SIMT_UNSEEN float rsqrtf(float x) { return float(1 / sqrt(double(x))); }
// Ties to even; saturates, and 0 for NaN.
SIMT_UNSEEN int __float2int_rn(float x) {
  if (std::isnan(x)) return 0;
  const float r = nearbyintf(x);
  if (r >= 2147483648.0f) return INT32_MAX;
  return r <= -2147483648.0f ? INT32_MIN : int(r);
}

// CUDA's min and max of floating-point numbers are fmin and fmax: a NaN loses.
template <class A, class B>
SIMT_UNSEEN constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
SIMT_UNSEEN constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
  return T(a) < T(b) ? T(b) : T(a);
}
