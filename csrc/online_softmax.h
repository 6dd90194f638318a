// The running (max, sum) of a soft-max and the only home of the -inf guard. Shared by CPU and CUDA.
#pragma once
#include <cmath>

#ifdef __CUDACC__
#define TTS_HD __host__ __device__
#else
#define TTS_HD
#endif

namespace tts {

// A state that has seen no key has max -inf. Subtracting -inf from -inf is NaN, so weights are taken
// relative to safe_max(): finite for every state, and exp(-inf - finite) is the zero an unseen key deserves.
TTS_HD inline float safe_max(float max) { return max == -INFINITY ? 0.0f : max; }

// log(sum(exp)) of a state, -inf when it has seen no key.
TTS_HD inline float state_lse(float max, float sum) { return sum > 0.0f ? max + std::log(sum) : -INFINITY; }

}  // namespace tts
