// The order of a group's candidates as one number each, and the cuts of that order.
#pragma once
#include <cmath>

#include "cuda/reduce.h"
#include "cuda/types.h"

namespace tts::cuda {

constexpr int kSelectThreads = 128;
// Candidates that a block sorts in shared memory; larger groups are walked in place.
constexpr int kSelectSorted = 2048;
constexpr uint64_t kNoCandidate = ~uint64_t(0);
// A share that is a whole number but for rounding must not be rounded up to the next: equal scores share evenly.
constexpr double kBelowRounding = 1.0 - 1e-12;

struct Min {
  __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const { return a < b ? a : b; }
};

// Ascending keys are descending scores, equal ones by index.
__device__ __forceinline__ uint64_t key_of(float score, int index) {
  // Makes -0.0 the 0.0 that it equals.
  const uint32_t bits = bit_cast<uint32_t>(score + 0.0f);
  const uint32_t descending = bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
  return uint64_t(descending) << 32 | uint32_t(index);
}
__device__ __forceinline__ int index_of(uint64_t key) { return int(uint32_t(key)); }
__device__ __forceinline__ float score_of(uint64_t key) {
  const uint32_t descending = uint32_t(key >> 32);
  return bit_cast<float>(descending & 0x80000000u ? descending : ~descending & 0x7fffffffu);
}

// Soft-max weight relative to the largest score.
__device__ __forceinline__ double weight_of(float score, float largest, double temperature) {
  return score == largest ? 1.0 : exp((double(score) - double(largest)) / temperature);
}

// Of what is left of the budget. Never more than that, since the weight is a part of weight_from_here.
__device__ __forceinline__ int share(int64_t budget, double weight, double weight_from_here) {
  return int(ceil(double(budget) * weight / weight_from_here * kBelowRounding));
}

struct Group {
  const float* scores;
  int32_t* widths;
  int size, count;
  int64_t budget;
};

// Memory of a block: the sorted keys, the weight from each on, and what reductions need.
struct SelectShared {
  uint64_t keys[kSelectSorted];
  double rest[kSelectSorted];
  uint64_t scratch[kSelectThreads / kWarp];
};

// Key of rank `rank`, which is below the group's size: one bit after the other, by counting.
__device__ __forceinline__ uint64_t key_of_rank(const Group& group, int rank, SelectShared& shared) {
  uint64_t key = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t low = key | (uint64_t(1) << bit);
    int before = 0;
    for (int i = int(threadIdx.x); i < group.size; i += kSelectThreads) before += key_of(group.scores[i], i) < low;
    before = block_reduce(before, Sum{}, reinterpret_cast<int*>(shared.scratch));
    if (before <= rank) key = low;
  }
  return key;
}

}  // namespace tts::cuda
