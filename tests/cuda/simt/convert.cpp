// Conversions that round as the device does.
#include <cmath>
#include <cstring>

#include "cuda/ptx.h"

namespace simt {
namespace {

uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

}  // namespace

uint16_t bfloat16_of(float x) {
  const uint32_t bits = bits_of(x);
  if (std::isnan(x)) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t half_of(float x) {
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000;
  if (std::isnan(x)) return 0x7fff;
  const float size = std::fabs(x);
  // 65520 is half way from the largest finite number to the next power of 2.
  if (size >= 65520.0f) return uint16_t(sign | 0x7c00);
  // Subnormal: a multiple of 2^-24. The product is exact, the rounding is to even.
  if (size < 6.103515625e-5f) return uint16_t(sign | uint32_t(std::nearbyintf(size * 16777216.0f)));
  const uint32_t rebased = bits_of(size) - (112u << 23);
  return uint16_t(sign | (rebased + 0xfff + (rebased >> 13 & 1)) >> 13);
}

float float_of_half(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ff;
  if (exponent == 0) return float_of(bits_of(float(fraction) * 0x1p-24f) | sign);
  const uint32_t rebased = exponent == 31 ? 255 : exponent + 112;
  return float_of(sign | rebased << 23 | fraction << 13);
}

float exp2_approx(float x) {
  const float y = std::exp2(std::fabs(x) < 0x1p-126f ? 0.0f : x);
  return y < 0x1p-126f ? 0.0f : y;
}

}  // namespace simt
