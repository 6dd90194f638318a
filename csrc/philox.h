// Philox4x32-10 (Salmon et al., SC 2011): random words as a function of (key, counter), so that a draw depends
// on neither its slot in the batch nor the machine. Shared by CPU and CUDA.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define TTS_HD __host__ __device__
#else
#define TTS_HD
#endif

namespace tts {

// Third counter word: draws for different purposes never share a counter.
enum PhiloxPurpose : uint32_t {
  // counter (position, child, kDraw, 0), word 0: the uniform of an independent draw.
  kDraw = 0,
  // counter (position, token / 4, kNoise, 0), word token % 4: the Gumbel noise of a token.
  kNoise = 1,
};

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u, kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

// Replaces the counter by the four random words. Internal linkage: every instruction set needs its own copy.
TTS_HD static inline void philox4x32(uint64_t key, uint32_t (&counter)[4]) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round, k0 += kPhiloxW0, k1 += kPhiloxW1) {
    const uint64_t left = uint64_t(counter[0]) * kPhiloxM0, right = uint64_t(counter[2]) * kPhiloxM1;
    counter[0] = uint32_t(right >> 32) ^ counter[1] ^ k0;
    counter[1] = uint32_t(right);
    counter[2] = uint32_t(left >> 32) ^ counter[3] ^ k1;
    counter[3] = uint32_t(left);
  }
}

// In (0, 1): neither end occurs, so its logarithm and that of its complement are finite.
TTS_HD static inline double philox_uniform(uint32_t word) { return (double(word) + 0.5) * 0x1p-32; }

}  // namespace tts
