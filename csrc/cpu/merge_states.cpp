#include <cmath>

#include "cpu/dispatch.h"
#include "cpu/simd.h"
#include "online_softmax.h"

namespace tts::TTS_ISA {
namespace {

// One (row, head): out = sum_p exp(lse_p - lse) * out_p, lse = log(sum_p exp(lse_p)).
template <class T>
void merge_one(const MergeStatesParams& p, int64_t at) {
  const int64_t stride = p.rows * p.heads, dim = p.head_dim;
  float max = -INFINITY, sum = 0.0f;
  for (int64_t part = 0; part < p.parts; ++part) max = std::fmax(max, p.lses[part * stride + at]);
  const float base = safe_max(max);
  for (int64_t part = 0; part < p.parts; ++part) sum += std::exp(p.lses[part * stride + at] - base);
  p.lse[at] = state_lse(max, sum);

  T* out = static_cast<T*>(p.out) + at * dim;
  const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
  const auto weighted = [&](auto load_at, auto zero) {
    auto total = zero;
    for (int64_t part = 0; part < p.parts; ++part) {
      const float weight = std::exp(p.lses[part * stride + at] - base) * inverse;
      // A part without keys may hold anything: zero times NaN would spoil the row.
      if (weight > 0.0f) total += weight * load_at(static_cast<const T*>(p.outs) + (part * stride + at) * dim);
    }
    return total;
  };
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes)
    store(out + d, weighted([d](const T* row) { return load(row + d); }, Vec(0.0f)));
  for (; d < dim; ++d) store_float(out + d, weighted([d](const T* row) { return to_float(row[d]); }, 0.0f));
}

}  // namespace

void merge_states(const MergeStatesParams& p, const Parallel& pool) {
  const int64_t total = p.rows * p.heads, chunk = 64;
  with_dtype(p.dtype, [&](auto type) {
    for_each_task(pool, (total + chunk - 1) / chunk, [&](int64_t task) {
      const int64_t end = (task + 1) * chunk < total ? (task + 1) * chunk : total;
      for (int64_t at = task * chunk; at < end; ++at) merge_one<decltype(type)>(p, at);
    });
  });
}

}  // namespace tts::TTS_ISA
