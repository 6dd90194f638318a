// 16 bytes of a row at a time, as floats.
#pragma once
#include "cuda/types.h"

namespace tts::cuda {

template <class T>
constexpr int kWidth = 16 / int(sizeof(T));

template <class T>
struct alignas(16) Vector {
  T items[kWidth<T>];
};

// Whether every row of this many bytes starts at a multiple of 16.
__host__ __device__ __forceinline__ bool is_aligned(const void* rows, int64_t row_bytes) {
  return ((reinterpret_cast<uintptr_t>(rows) | uintptr_t(row_bytes)) & 15) == 0;
}

// Items at to at + kWidth of a row of `count`, filler past its end. In an aligned row a vector is inside or past the
// end as a whole; the items are the same either way.
template <class T>
__device__ __forceinline__ void load_vector(const T* row, int64_t at, int64_t count, bool aligned, float filler,
                                            float (&to)[kWidth<T>]) {
  if (aligned && at < count) {
    const Vec16 words = *reinterpret_cast<const Vec16*>(row + at);
    const auto vector = bit_cast<Vector<T>>(words);
    for (int i = 0; i < kWidth<T>; ++i) to[i] = to_float(vector.items[i]);
    return;
  }
  for (int i = 0; i < kWidth<T>; ++i) to[i] = at + i < count ? to_float(row[at + i]) : filler;
}

template <class T>
__device__ __forceinline__ void store_vector(T* row, int64_t at, int64_t count, bool aligned,
                                             const float (&from)[kWidth<T>]) {
  if (aligned) {
    Vector<T> vector;
    for (int i = 0; i < kWidth<T>; ++i) vector.items[i] = from_float<T>(from[i]);
    *reinterpret_cast<Vec16*>(row + at) = bit_cast<Vec16>(vector);
    return;
  }
  for (int i = 0; i < kWidth<T>; ++i) {
    if (at + i < count) row[at + i] = from_float<T>(from[i]);
  }
}

}  // namespace tts::cuda
