// One row of logits, which tokens of it may be drawn, and the shared memory of the block that draws them.
#pragma once
#include <cfloat>
#include <cmath>

#include "cuda/reduce.h"
#include "cuda/vectors.h"

namespace tts::cuda {

constexpr int kSampleThreads = 512, kSampleWarps = kSampleThreads / kWarp;
// Values of 11 bits, and runs of adjacent tokens whose weights are summed apart.
constexpr int kBins = 2048, kRuns = 1024;

struct Entry {
  double score;
  int token;
};

struct SampleShared {
  // 64-bit integers in halves: shared memory adds 32 bits at a time.
  uint32_t low[kBins], high[kBins];
  // Sum over the runs up to each.
  double runs[kRuns];
  Entry best[kSampleWarps];
  uint64_t scratch[kSampleWarps];
  // Where a walk over the bins stopped: the bin, what of its amount was needed, and its amount.
  uint64_t need, here;
  int bin;
  bool again;

  template <class T>
  __device__ __forceinline__ T* scratch_of() {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    return reinterpret_cast<T*>(scratch);
  }
};

// Tokens above value may be drawn, and those equal to it up to index last: every restriction keeps a prefix of the
// descending order (ties: lower index first).
struct Cut {
  float value = -INFINITY;
  int64_t last = INT64_MAX;
  // A token of smaller weight than this (the largest weight is 1) is out too.
  double min_weight = 0.0;

  __device__ __forceinline__ bool keeps_all() const { return value == -INFINITY && min_weight == 0.0; }
  __device__ __forceinline__ bool keeps(float x, int64_t token) const {
    return x > value || (x == value && token <= last && x > -INFINITY);
  }
};

template <class T>
struct LogitsRow {
  const T* logits;
  int64_t vocab;
  bool aligned;
  double inverse_temperature;
  float max;

  // -inf past the end.
  __device__ __forceinline__ void load(int64_t at, float (&x)[kWidth<T>]) const {
    load_vector(logits, at, vocab, aligned, -INFINITY, x);
    // Makes -0.0 the 0.0 that it ties with.
    for (int i = 0; i < kWidth<T>; ++i) x[i] += 0.0f;
  }
  // Logarithm of the weight, and the weight, relative to those of the largest logit.
  __device__ __forceinline__ double scaled(float x) const { return (double(x) - double(max)) * inverse_temperature; }
  __device__ __forceinline__ double weight(float x) const { return exp(scaled(x)); }
  __device__ __forceinline__ double kept_weight(const Cut& cut, float x, int64_t token) const {
    if (!cut.keeps(x, token)) return 0.0;
    const double w = weight(x);
    return w >= cut.min_weight ? w : 0.0;
  }
};

// Calls body(first token, logits) for this thread's vectors, in ascending order.
template <class T, class Body>
__device__ __forceinline__ void for_vectors(const LogitsRow<T>& row, Body body) {
  for (int64_t at = threadIdx.x * kWidth<T>; at < row.vocab; at += kSampleThreads * kWidth<T>) {
    float x[kWidth<T>];
    row.load(at, x);
    body(at, x);
  }
}

__device__ __forceinline__ float max_or_wrong(float most, float x) { return x <= FLT_MAX ? fmaxf(most, x) : INFINITY; }

// +inf when there is a NaN or +inf, -inf when there is nothing finite. The pass that reads the row from memory: each
// thread has a few vectors on their way, past the end the first of them once more.
template <class T>
__device__ __forceinline__ float find_max(const LogitsRow<T>& row, SampleShared& shared) {
  constexpr int kAhead = 4;
  constexpr int64_t kStride = kSampleThreads * kWidth<T>;
  float most = -INFINITY;
  if (row.aligned) {
    for (int64_t first = threadIdx.x * kWidth<T>; first < row.vocab; first += kAhead * kStride) {
      Vec16 words[kAhead];
      for (int j = 0; j < kAhead; ++j) {
        const int64_t at = first + j * kStride < row.vocab ? first + j * kStride : first;
        words[j] = *reinterpret_cast<const Vec16*>(row.logits + at);
      }
      for (int j = 0; j < kAhead; ++j) {
        const auto vector = bit_cast<Vector<T>>(words[j]);
        for (int i = 0; i < kWidth<T>; ++i) most = max_or_wrong(most, to_float(vector.items[i]));
      }
    }
  } else {
    for (int64_t token = threadIdx.x; token < row.vocab; token += kSampleThreads)
      most = max_or_wrong(most, to_float(row.logits[token]));
  }
  return block_reduce(most, Max{}, shared.scratch_of<float>());
}

}  // namespace tts::cuda
