// exp() of vectors of double: sums over a whole vocabulary must leave the CDF exact to far below one draw.
#pragma once
#include "cpu/simd.h"

namespace tts::TTS_ISA {

using VecD = stdx::native_simd<double>;
using VecL = stdx::rebind_simd_t<uint64_t, VecD>;
constexpr int kLanesD = VecD::size();
static_assert(kLanes == 2 * kLanesD);

inline void widen(Vec x, VecD (&halves)[2]) {
  const auto [low, high] = stdx::split<kLanesD, kLanesD>(x);
  halves[0] = stdx::static_simd_cast<VecD>(low);
  halves[1] = stdx::static_simd_cast<VecD>(high);
}

// exp(y) for y <= 0, off by at most two units in the last place; exp(0) is exactly 1, below -708 it is 0.
inline VecD exp_nonpositive(VecD y) {
  // Adding kRound leaves the nearest integer in the low bits of the mantissa.
  constexpr double kLog2E = 1.4426950408889634, kRound = 0x1.8p52, kLowest = -708.0;
  constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
  constexpr double kTaylor[] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
      1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  const VecD clamped = stdx::max(y, VecD(kLowest));
  const VecD shifted = clamped * kLog2E + kRound, n = shifted - kRound;
  const VecD r = (clamped - n * kLn2High) - n * kLn2Low;
  VecD power = kTaylor[0];
  for (unsigned i = 1; i < sizeof kTaylor / sizeof kTaylor[0]; ++i) power = power * r + kTaylor[i];
  VecD result = bit_cast<VecD>(VecL(bit_cast<VecL>(power) + (bit_cast<VecL>(shifted) << 52)));
  stdx::where(y < kLowest, result) = VecD(0.0);
  return result;
}

}  // namespace tts::TTS_ISA
