#include <cmath>

#include "cuda/launch.h"
#include "cuda/reduce.h"
#include "cuda/vectors.h"

namespace tts::cuda {

// Classes whose logits a block sums at a time; more would need more registers and heads have one or two.
constexpr int kScoreThreads = 256, kScoreClasses = 2;

// Soft-max over the classes as their logits come, in the hands of thread 0.
struct StepScore {
  double wanted = 0.0, largest = -double(INFINITY), total = 0.0;

  __device__ __forceinline__ void add(double logit, bool is_wanted) {
    if (is_wanted) wanted = logit;
    if (logit > largest) {
      total = total * exp(largest - logit) + 1.0;
      largest = logit;
      return;
    }
    // Minus infinity less itself would be NaN.
    total += exp(logit - (largest == -double(INFINITY) ? 0.0 : largest));
  }
  __device__ __forceinline__ double value(ScoreHead head) const {
    if (head == ScoreHead::kSoftmax) return exp(wanted - largest) / total;
    if (head == ScoreHead::kRaw) return wanted;
    const double small = exp(-fabs(wanted));
    return (wanted < 0.0 ? small : 1.0) / (1.0 + small);
  }
};

// Over the earlier steps of a path, of which p.prior is the aggregate, and the new ones.
struct PathScore {
  double total = 0.0;
  float prior = 0.0f;
  int64_t earlier = 0;

  __device__ __forceinline__ PathScore(const ScoreStepsParams& p, int64_t path) {
    if (p.aggregate == Aggregate::kProd) total = 1.0;
    if (p.aggregate == Aggregate::kMin) total = INFINITY;
    if (p.prior) earlier = p.prior_steps[path];
    if (earlier == 0) return;
    prior = p.prior[path];
    total = p.aggregate == Aggregate::kMean ? double(prior) * double(earlier) : double(prior);
  }
  __device__ __forceinline__ void add(double score, Aggregate aggregate) {
    if (aggregate == Aggregate::kMean) total += score;
    else if (aggregate == Aggregate::kProd) total *= score;
    else if (aggregate == Aggregate::kLast) total = score;
    // Written so that a NaN score stays visible.
    else if (!(score >= total)) total = total != total ? total : score;
  }
  __device__ __forceinline__ float value(int64_t steps, Aggregate aggregate) const {
    if (steps == 0) return prior;
    return float(aggregate == Aggregate::kMean ? total / double(earlier + steps) : total);
  }
};

// This thread's part of the dot products of a row with the weights of a few classes, in double: a score head is too
// small for that to matter.
template <class T>
__device__ __forceinline__ void dot_products(const ScoreStepsParams& p, const T* hidden, int64_t first, bool aligned,
                                             double (&sums)[kScoreClasses]) {
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t at = threadIdx.x * kWidth<T>; at < p.hidden_size; at += kScoreThreads * kWidth<T>) {
    float x[kWidth<T>];
    load_vector(hidden, at, p.hidden_size, aligned, 0.0f, x);
    for (int c = 0; c < kScoreClasses; ++c) {
      if (first + c >= p.classes) break;
      float w[kWidth<T>];
      load_vector(weight + (first + c) * p.hidden_size, at, p.hidden_size, aligned, 0.0f, w);
      for (int i = 0; i < kWidth<T>; ++i) sums[c] += double(x[i]) * double(w[i]);
    }
  }
}

// Path blockIdx.x: scores its new steps one by one and folds them as it goes.
template <class T>
__global__ void __launch_bounds__(kScoreThreads) score_steps_kernel(const __grid_constant__ ScoreStepsParams p) {
  TTS_SHARED_MEMORY(memory);
  auto* partial = reinterpret_cast<double*>(memory);  // [warps, kScoreClasses]
  const int64_t path = blockIdx.x, begin = p.offsets[path], end = p.offsets[path + 1];
  const int64_t row_bytes = p.hidden_size * int64_t(sizeof(T));
  const bool aligned = is_aligned(p.hidden, row_bytes) && is_aligned(p.weight, row_bytes);
  PathScore folded(p, path);
  for (int64_t step = begin; step < end; ++step) {
    const T* hidden = static_cast<const T*>(p.hidden) + p.rows[step] * p.hidden_size;
    StepScore score;
    for (int64_t first = 0; first < p.classes; first += kScoreClasses) {
      double sums[kScoreClasses] = {};
      dot_products(p, hidden, first, aligned, sums);
      // Thread 0 has read the sums before.
      __syncthreads();
      for (int c = 0; c < kScoreClasses; ++c) {
        const double sum = warp_reduce(sums[c], Sum{});
        if (lane_id() == 0) partial[warp_id() * kScoreClasses + c] = sum;
      }
      __syncthreads();
      for (int c = 0; threadIdx.x == 0 && c < kScoreClasses && first + c < p.classes; ++c) {
        double logit = p.bias ? double(p.bias[first + c]) : 0.0;
        for (int warp = 0; warp < num_warps(); ++warp) logit += partial[warp * kScoreClasses + c];
        score.add(logit, first + c == p.positive);
      }
    }
    if (threadIdx.x == 0) {
      const float rounded = float(score.value(p.head));
      p.step_scores[step] = rounded;
      folded.add(double(rounded), p.aggregate);
    }
  }
  if (threadIdx.x == 0) p.path_scores[path] = folded.value(end - begin, p.aggregate);
}

int score_steps(const ScoreStepsParams& p, Stream stream) {
  if (p.paths == 0) return 0;
  const size_t shared = kScoreThreads / kWarp * kScoreClasses * sizeof(double);
  return with_dtype(p.dtype, [&](auto type) {
    return launch(score_steps_kernel<decltype(type)>, {unsigned(p.paths)}, kScoreThreads, shared, stream, p);
  });
}

}  // namespace tts::cuda
