// One row of logits and its soft-max: vectors padded with -inf, maximum, weights, sums.
#pragma once
#include <cfloat>
#include <cmath>

#include "cpu/exp.h"

namespace tts::TTS_ISA {

// Which tokens may be drawn: those above value, and those equal to it up to index last.
// Every restriction keeps a prefix of the descending order (ties: lower index first), so two numbers say it all.
struct Cut {
  float value = -INFINITY;
  int64_t last = INT64_MAX;
  // A token of smaller weight than this (the largest weight is 1) is out too.
  double min_weight = 0.0;

  bool keeps_all() const { return value == -INFINITY && min_weight == 0.0; }
  bool keeps(float x, int64_t token) const { return x > value || (x == value && token <= last && x > -INFINITY); }
};

template <class T>
struct LogitsRow {
  const T* logits;
  int64_t vocab;
  double inverse_temperature;
  float max = -INFINITY;

  // Lanes at and past end are -inf.
  Vec at(int64_t i, int64_t end) const {
    if (i + kLanes <= end) return load(logits + i);
    float lanes[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = i + lane < end ? to_float(logits[i + lane]) : -INFINITY;
    return load(lanes);
  }

  double scaled(float x) const { return (double(x) - double(max)) * inverse_temperature; }
  double weight(float x) const { return std::exp(scaled(x)); }

  // False when there is nothing to draw from: a NaN, +inf, or no finite logit at all.
  bool find_max() {
    Vec most(-INFINITY);
    typename Vec::mask_type wrong(false);
    for (int64_t i = 0; i < vocab; i += kLanes) {
      const Vec x = at(i, vocab);
      most = stdx::max(most, x);
      wrong = wrong || !(x <= Vec(FLT_MAX));
    }
    max = stdx::hmax(most);
    return stdx::none_of(wrong) && max > -INFINITY;
  }

  // Soft-max weights at the temperature, relative to the maximum's.
  void weights(Vec x, VecD (&out)[2]) const {
    widen(x, out);
    for (VecD& half : out) half = exp_nonpositive((half - double(max)) * inverse_temperature);
  }

  // The same with zero for tokens that the cut drops; threshold is Cut::value or the next float above it.
  bool kept_weights(Vec x, float threshold, double min_weight, VecD (&out)[2]) const {
    const auto kept = x >= Vec(threshold);
    if (stdx::none_of(kept)) return false;
    stdx::where(!kept, x) = Vec(-INFINITY);
    weights(x, out);
    for (VecD& half : out) stdx::where(half < VecD(min_weight), half) = VecD(0.0);
    return true;
  }

  // Sum of all weights.
  double total() const {
    VecD sum[2] = {VecD(0.0), VecD(0.0)}, weight[2];
    for (int64_t i = 0; i < vocab; i += kLanes) {
      weights(at(i, vocab), weight);
      for (int half = 0; half < 2; ++half) sum[half] += weight[half];
    }
    return stdx::reduce(VecD(sum[0] + sum[1]));
  }
};

}  // namespace tts::TTS_ISA
