// Philox words of many neighbouring tokens at once.
#pragma once
#include "cpu/exp.h"
#include "philox.h"

namespace tts::TTS_ISA {

constexpr int kNoiseTokens = 64;
static_assert(kNoiseTokens % (4 * kLanes) == 0);

// Products of the low halves of the lanes, which compilers do not find by themselves.
inline VecL multiply_low(VecL a, uint32_t factor) {
#if defined(__AVX512F__)
  return bit_cast<VecL>(_mm512_mul_epu32(bit_cast<__m512i>(a), _mm512_set1_epi64(factor)));
#elif defined(__AVX2__)
  return bit_cast<VecL>(_mm256_mul_epu32(bit_cast<__m256i>(a), _mm256_set1_epi64x(factor)));
#elif defined(__x86_64__)
  return bit_cast<VecL>(_mm_mul_epu32(bit_cast<__m128i>(a), _mm_set1_epi64x(factor)));
#else
  return (a & 0xffffffffu) * uint64_t(factor);
#endif
}

// Upper and lower words of the 64-bit products.
inline void multiply_wide(VecU a, uint32_t factor, VecU& high, VecU& low) {
  const VecL even = multiply_low(bit_cast<VecL>(a), factor), odd = multiply_low(bit_cast<VecL>(a) >> 32, factor);
  const VecL upper(0xffffffff00000000u), lower(0xffffffffu);
  high = bit_cast<VecU>(VecL((even >> 32) | (odd & upper)));
  low = bit_cast<VecU>(VecL((even & lower) | (odd << 32)));
}

// words[t] = word t % 4 of the counter (position, first_block + t / 4, kNoise, 0).
inline void noise_words(uint64_t key, uint32_t position, uint32_t first_block, uint32_t (&words)[kNoiseTokens]) {
  for (int part = 0; part < kNoiseTokens; part += 4 * kLanes) {
    VecU c0 = position, c1([&](auto lane) { return first_block + uint32_t(part / 4 + lane); }), c2 = kNoise, c3 = 0;
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round, k0 += kPhiloxW0, k1 += kPhiloxW1) {
      VecU left_high, left_low, right_high, right_low;
      multiply_wide(c0, kPhiloxM0, left_high, left_low);
      multiply_wide(c2, kPhiloxM1, right_high, right_low);
      c0 = right_high ^ c1 ^ VecU(k0);
      c1 = right_low;
      c2 = left_high ^ c3 ^ VecU(k1);
      c3 = left_low;
    }
    uint32_t drawn[4][kLanes];
    c0.copy_to(drawn[0], stdx::element_aligned);
    c1.copy_to(drawn[1], stdx::element_aligned);
    c2.copy_to(drawn[2], stdx::element_aligned);
    c3.copy_to(drawn[3], stdx::element_aligned);
    for (int t = 0; t < 4 * kLanes; ++t) words[part + t] = drawn[t % 4][t / 4];
  }
}

}  // namespace tts::TTS_ISA
