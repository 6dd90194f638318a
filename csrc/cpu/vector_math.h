// Functions of vectors that the standard library has no vector form of.
#pragma once
#include "cpu/simd.h"

namespace tts::TTS_ISA {

// e^x as scale * (1 + rest), where rest keeps its digits also when it is tiny.
struct Power {
  Vec scale, rest;
};
inline Power split_exp(Vec x) {
  x *= 1.44269504f;
  // NaN is the second operand of the comparison, so it stays. At -127 the exponent field, and with it the scale, is 0.
  stdx::where(x < -127.0f, x) = Vec(-127.0f);
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits; 127 is the exponent's bias.
  const Vec magic = 12582912.0f + 127.0f;
  const Vec shifted = x + magic, f = x - (shifted - magic);
  // (2^f - 1) / f on [-1/2, 1/2], least relative error.
  Vec g = 0.00015353362f;
  for (float c : {0.0013398875f, 0.009618437f, 0.055503324f, 0.24022648f, 0.6931472f}) g = g * f + c;
  return {bit_cast<Vec>(bit_cast<VecU>(shifted) << 23), f * g};
}

// e^x for x <= 88, off by 1.5 units in the last place plus |x| / 2^24; exactly 0 below -88.1 and for -inf.
inline Vec exp(Vec x) {
  const Power power = split_exp(x);
  return power.scale * power.rest + power.scale;
}

// Through e^y - 1, which keeps the digits that 1 - e^y loses near 0.
inline Vec tanh(Vec x) {
  const Power power = split_exp(-2.0f * stdx::abs(x));
  const Vec minus_one = power.scale * power.rest + (power.scale - 1.0f);
  return stdx::copysign(minus_one / (minus_one + 2.0f), x);
}

#if defined(__clang__) || __GNUC__ >= 12
template <int kStep, bool kHigh, int... kLane>
inline Vec exchange(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
  using Raw [[gnu::vector_size(sizeof(Vec))]] = float;
  const Raw mixed = __builtin_shufflevector(
      bit_cast<Raw>(a), bit_cast<Raw>(b),
      (kHigh ? (kLane & kStep ? kLanes + kLane : kLane + kStep) : (kLane & kStep ? kLanes + kLane - kStep : kLane))...);
  return bit_cast<Vec>(mixed);
}
#else
template <int kStep, bool kHigh, int... kLane>
inline Vec exchange(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
  return Vec([&](auto lane) {
    constexpr int i = lane;
    return bool(i & kStep) == kHigh ? (kHigh ? b[i] : a[i]) : (kHigh ? a[i ^ kStep] : b[i ^ kStep]);
  });
}
#endif

// Lane j of block[i] and lane i of block[j] change places, for every bit of i and j from kStep down. From kLanes / 2 it
// transposes the block; from less it transposes every 2 kStep lanes of 2 kStep vectors on their own.
template <int kStep, int kCount>
inline void transpose(Vec (&block)[kCount]) {
  constexpr std::make_integer_sequence<int, kLanes> lanes;
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) {
    if (i & kStep) continue;
    const Vec low = exchange<kStep, false>(block[i], block[i + kStep], lanes);
    block[i + kStep] = exchange<kStep, true>(block[i], block[i + kStep], lanes);
    block[i] = low;
  }
  if constexpr (kStep > 1) transpose<kStep / 2>(block);
}

}  // namespace tts::TTS_ISA
