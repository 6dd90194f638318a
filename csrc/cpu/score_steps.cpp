#include <cmath>

#include "cpu/dispatch.h"
#include "cpu/exp.h"

namespace tts::TTS_ISA {
namespace {

// Summed in double: a score head is a handful of rows, so this costs nothing next to the model that made hidden.
template <class T>
double dot(const T* a, const T* b, int64_t size) {
  VecD sums[2] = {VecD(0.0), VecD(0.0)};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    VecD left[2], right[2];
    widen(load(a + i), left);
    widen(load(b + i), right);
    for (int half = 0; half < 2; ++half) sums[half] += left[half] * right[half];
  }
  double sum = stdx::reduce(VecD(sums[0] + sums[1]));
  for (; i < size; ++i) sum += double(to_float(a[i])) * double(to_float(b[i]));
  return sum;
}

template <class T>
double score_one(const ScoreStepsParams& p, const T* hidden) {
  const auto logit = [&](int64_t c) {
    return dot(hidden, static_cast<const T*>(p.weight) + c * p.hidden_size, p.hidden_size) +
           (p.bias ? p.bias[c] : 0.0f);
  };
  const double wanted = logit(p.positive);
  if (p.head == ScoreHead::kRaw) return wanted;
  if (p.head == ScoreHead::kSigmoid) {
    const double small = std::exp(-std::fabs(wanted));
    return (wanted < 0.0 ? small : 1.0) / (1.0 + small);
  }
  // Running sum of exp(logit - max) over the classes, which starts with the wanted one.
  double max = wanted, sum = 1.0;
  for (int64_t c = 0; c < p.classes; ++c) {
    if (c == p.positive) continue;
    const double other = logit(c);
    if (other > max) sum = sum * std::exp(max - other) + 1.0, max = other;
    else sum += std::exp(other - max);
  }
  return std::exp(wanted - max) / sum;
}

// Over the earlier steps, of which prior is the aggregate, and the new ones.
float aggregate_path(const ScoreStepsParams& p, int64_t path) {
  const int64_t begin = p.offsets[path], end = p.offsets[path + 1];
  const int64_t earlier = p.prior ? p.prior_steps[path] : 0, steps = earlier + end - begin;
  if (steps == 0) return 0.0f;
  if (begin == end) return p.prior[path];
  if (p.aggregate == Aggregate::kLast) return p.step_scores[end - 1];
  const bool is_mean = p.aggregate == Aggregate::kMean;
  double total = is_mean ? 0.0 : p.aggregate == Aggregate::kProd ? 1.0 : double(INFINITY);
  if (earlier) total = is_mean ? double(p.prior[path]) * double(earlier) : double(p.prior[path]);
  for (int64_t step = begin; step < end; ++step) {
    const double score = p.step_scores[step];
    if (is_mean) total += score;
    else if (p.aggregate == Aggregate::kProd) total *= score;
    // Written so that a NaN score stays visible.
    else if (!(score >= total)) total = total != total ? total : score;
  }
  return float(is_mean ? total / double(steps) : total);
}

}  // namespace

void score_steps(const ScoreStepsParams& p, const Parallel& pool) {
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_task(pool, p.steps, [&](int64_t step) {
      p.step_scores[step] = float(score_one(p, static_cast<const T*>(p.hidden) + p.rows[step] * p.hidden_size));
    });
  });
  const int64_t chunk = 64;
  for_each_task(pool, (p.paths + chunk - 1) / chunk, [&](int64_t task) {
    const int64_t end = (task + 1) * chunk < p.paths ? (task + 1) * chunk : p.paths;
    for (int64_t path = task * chunk; path < end; ++path) p.path_scores[path] = aggregate_path(p, path);
  });
}

}  // namespace tts::TTS_ISA
