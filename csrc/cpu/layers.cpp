#include <cmath>

#include "cpu/dispatch.h"
#include "cpu/vector_math.h"

namespace tts::TTS_ISA {
namespace {

constexpr int64_t kRowsOfTask = 8;

template <class Row>
void for_each_row(const Parallel& pool, int64_t rows, const Row& body) {
  for_each_task(pool, (rows + kRowsOfTask - 1) / kRowsOfTask, [&](int64_t task) {
    const int64_t begin = task * kRowsOfTask, end = begin + kRowsOfTask < rows ? begin + kRowsOfTask : rows;
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

// What is left of a vector when it has been stored as T.
inline Vec rounded(Vec x, float) { return x; }
inline float rounded(float x, float) { return x; }
template <class T>
inline Vec rounded(Vec x, T) {
  T stored[kLanes];
  store(stored, x);
  return load(stored);
}
template <class T>
inline float rounded(float x, T) {
  T stored;
  store_float(&stored, x);
  return to_float(stored);
}

template <class T>
void norm_row(const T* x, const T* weight, T* out, int64_t width, float eps) {
  Vec squares[2] = {0.0f, 0.0f};
  int64_t i = 0;
  for (; i + 2 * kLanes <= width; i += 2 * kLanes) {
    const Vec low = load(x + i), high = load(x + i + kLanes);
    squares[0] += low * low, squares[1] += high * high;
  }
  float sum = stdx::reduce(Vec(squares[0] + squares[1]));
  for (; i < width; ++i) sum += to_float(x[i]) * to_float(x[i]);
  const float scale = 1.0f / std::sqrt(sum / float(width) + eps);
  for (i = 0; i + kLanes <= width; i += kLanes)
    store(out + i, load(weight + i) * rounded(Vec(load(x + i) * scale), T{}));
  for (; i < width; ++i) store_float(out + i, to_float(weight[i]) * rounded(to_float(x[i]) * scale, T{}));
}

inline Vec silu(Vec x) {
  const Vec e = exp(-stdx::abs(x));
  Vec share = 1.0f / (1.0f + e);
  stdx::where(x < 0.0f, share) = e / (1.0f + e);
  return x * share;
}

template <class T>
void gate_row(const T* gate, const T* up, T* out, int64_t width) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(out + i, rounded(silu(load(gate + i)), T{}) * load(up + i));
  for (; i < width; ++i) {
    const float x = silu(Vec(to_float(gate[i])))[0];
    store_float(out + i, rounded(x, T{}) * to_float(up[i]));
  }
}

}  // namespace

void rms_norm(const LayerParams& p, const Parallel& pool) {
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_row(pool, p.rows, [&](int64_t row) {
      norm_row(static_cast<const T*>(p.x) + row * p.width, static_cast<const T*>(p.other),
               static_cast<T*>(p.out) + row * p.width, p.width, p.eps);
    });
  });
}

void silu_mul(const LayerParams& p, const Parallel& pool) {
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_row(pool, p.rows, [&](int64_t row) {
      const int64_t at = row * p.width;
      gate_row(static_cast<const T*>(p.x) + at, static_cast<const T*>(p.other) + at, static_cast<T*>(p.out) + at,
               p.width);
    });
  });
}

}  // namespace tts::TTS_ISA
