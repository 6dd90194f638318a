// Sums and extremes over a warp or a block, in an order that is always the same.
#pragma once
#include <cstdint>

#include "cuda/types.h"

namespace tts::cuda {

constexpr int kWarp = 32;

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

__device__ __forceinline__ int lane_id() { return int(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_id() { return int(threadIdx.x) / kWarp; }
__device__ __forceinline__ int num_warps() { return int(blockDim.x) / kWarp; }

// Every lane gets the result.
template <class T, class Op>
__device__ __forceinline__ T warp_reduce(T x, Op op) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, distance));
  return x;
}

// Over the lanes up to this one.
template <class T>
__device__ __forceinline__ T warp_scan(T x) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const T before = __shfl_up_sync(kAllLanes, x, distance);
    if (lane_id() >= distance) x += before;
  }
  return x;
}

// Every thread gets the result. scratch: a value per warp, shared; the first barrier ends its former use.
template <class T, class Op>
__device__ __forceinline__ T block_reduce(T x, Op op, T* scratch) {
  x = warp_reduce(x, op);
  __syncthreads();
  if (lane_id() == 0) scratch[warp_id()] = x;
  __syncthreads();
  T total = scratch[0];
  for (int warp = 1; warp < num_warps(); ++warp) total = op(total, scratch[warp]);
  return total;
}

// Sum over the threads up to this one; total becomes that over all.
template <class T>
__device__ __forceinline__ T block_scan(T x, T* scratch, T& total) {
  x = warp_scan(x);
  __syncthreads();
  if (lane_id() == kWarp - 1) scratch[warp_id()] = x;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int warp = 0; warp < num_warps(); ++warp) {
    if (warp == warp_id()) before = total;
    total += scratch[warp];
  }
  return before + x;
}

}  // namespace tts::cuda
