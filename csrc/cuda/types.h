// Storage types of the CUDA kernels. Plain C++: the same on a device and on the host.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda/ptx.h"
#include "params.h"

namespace tts::cuda {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
constexpr unsigned kAllLanes = 0xffffffffu;

// What one thread moves at a time: 16 bytes, aligned.
struct alignas(16) Vec16 {
  uint32_t words[4];
};

template <class To, class From>
__device__ __forceinline__ To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(BFloat16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }
__device__ __forceinline__ float to_float(Float16 x) { return ptx::float_of_half(x.bits); }
__device__ __forceinline__ float to_float(int8_t x) { return float(x); }

// Two neighbours of a row, the first in the lower half.
template <class T>
__device__ __forceinline__ uint32_t pack(float first, float second);
template <>
__device__ __forceinline__ uint32_t pack<BFloat16>(float first, float second) {
  return ptx::pack_bfloat16(first, second);
}
template <>
__device__ __forceinline__ uint32_t pack<Float16>(float first, float second) {
  return ptx::pack_half(first, second);
}

template <class T>
__device__ __forceinline__ T from_float(float x) {
  return T{uint16_t(pack<T>(x, 0.0f))};
}
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}

// Calls body with a value of the C++ type of dtype.
template <class Body>
inline int with_dtype(DType dtype, Body body) {
  switch (dtype) {
    case DType::kBFloat16: return body(BFloat16{});
    case DType::kFloat16: return body(Float16{});
    case DType::kFloat32: break;
  }
  return body(0.0f);
}

}  // namespace tts::cuda
