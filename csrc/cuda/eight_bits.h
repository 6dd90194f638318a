// int8 and float8_e4m3fn (1 sign, 4 exponent, 3 mantissa bits, bias 7, no infinity, NaN 0x7f) by integer arithmetic:
// devices below 8.9 have no instruction for the latter.
#pragma once
#include <cmath>

#include "cuda/types.h"

namespace tts::cuda {

// The bits in their places of a float are the number times 2^-120, the smallest ones too.
__device__ __forceinline__ float float_of_float8(uint8_t bits) {
  const uint32_t magnitude = bits & 0x7fu;
  const float x = bit_cast<float>((uint32_t(bits) & 0x80u) << 24 | magnitude << 20) * 0x1p120f;
  return magnitude == 0x7fu ? NAN : x;
}

// x is at most 448 in magnitude, or NaN. To nearest, ties to even.
__device__ __forceinline__ uint8_t float8_of_float(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x), sign = bits >> 24 & 0x80u;
  const float magnitude = fabsf(x);
  if (!(magnitude <= 448.0f)) return uint8_t(sign | 0x7fu);
  // Below 2^-6 neighbours are 2^-9 apart, as floats from 2^14 on are: the addition rounds.
  if (magnitude < 0x1p-6f)
    return uint8_t(sign | (bit_cast<uint32_t>(magnitude + 0x1p14f) - bit_cast<uint32_t>(0x1p14f)));
  const uint32_t rest = bit_cast<uint32_t>(magnitude), odd = rest >> 20 & 1u;
  return uint8_t(sign | (((rest + 0x7ffffu + odd) >> 20) - (120u << 3)));
}

// How a page stores numbers up to kLargest in magnitude.
struct Int8 {
  static constexpr float kLargest = 127.0f;
  static __device__ __forceinline__ float decode(uint8_t bits) { return float(int8_t(bits)); }
  static __device__ __forceinline__ uint8_t encode(float x) { return uint8_t(__float2int_rn(x)); }
};
struct Float8 {
  static constexpr float kLargest = 448.0f;
  static __device__ __forceinline__ float decode(uint8_t bits) { return float_of_float8(bits); }
  static __device__ __forceinline__ uint8_t encode(float x) { return float8_of_float(x); }
};

}  // namespace tts::cuda
