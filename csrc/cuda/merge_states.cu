#include <cmath>

#include "cuda/launch.h"
#include "cuda/vectors.h"
#include "online_softmax.h"

namespace tts::cuda {

constexpr int kMergeThreads = 256;

// Threads that share the output row of one (row, head), a vector each at a time.
template <class T>
__host__ __device__ __forceinline__ int merge_lanes(int64_t head_dim) {
  const int64_t vectors = (head_dim + kWidth<T> - 1) / kWidth<T>;
  return vectors < 1 ? 1 : vectors < kMergeThreads ? int(vectors) : kMergeThreads;
}

// Per (row, head): lse = log(sum_p exp(lse_p)), out = sum_p exp(lse_p - lse) * out_p.
template <class T>
__global__ void __launch_bounds__(kMergeThreads) merge_states_kernel(const __grid_constant__ MergeStatesParams p) {
  const int lanes = merge_lanes<T>(p.head_dim), group = int(threadIdx.x) / lanes, lane = int(threadIdx.x) % lanes;
  const int groups = kMergeThreads / lanes;
  const int64_t at = int64_t(blockIdx.x) * groups + group, stride = p.rows * p.heads, dim = p.head_dim;
  if (group >= groups || at >= stride) return;
  float max = -INFINITY, sum = 0.0f;
  for (int64_t part = 0; part < p.parts; ++part) max = fmaxf(max, p.lses[part * stride + at]);
  const float base = safe_max(max);
  for (int64_t part = 0; part < p.parts; ++part) sum += expf(p.lses[part * stride + at] - base);
  if (lane == 0) p.lse[at] = state_lse(max, sum);

  const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
  const auto* outs = static_cast<const T*>(p.outs);
  auto* out = static_cast<T*>(p.out) + at * dim;
  const int64_t row_bytes = dim * int64_t(sizeof(T));
  const bool aligned = is_aligned(p.outs, row_bytes) && is_aligned(p.out, row_bytes);
  for (int64_t d = int64_t(lane) * kWidth<T>; d < dim; d += int64_t(lanes) * kWidth<T>) {
    float total[kWidth<T>] = {};
    for (int64_t part = 0; part < p.parts; ++part) {
      const float weight = expf(p.lses[part * stride + at] - base) * inverse;
      // A part without keys may hold anything: zero times NaN would spoil the row.
      if (!(weight > 0.0f)) continue;
      float x[kWidth<T>];
      load_vector(outs + (part * stride + at) * dim, d, dim, aligned, 0.0f, x);
      for (int i = 0; i < kWidth<T>; ++i) total[i] = fmaf(weight, x[i], total[i]);
    }
    store_vector(out, d, dim, aligned, total);
  }
}

int merge_states(const MergeStatesParams& p, Stream stream) {
  if (p.rows == 0 || p.heads == 0) return 0;
  return with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t groups = kMergeThreads / merge_lanes<T>(p.head_dim);
    const Grid grid{unsigned((p.rows * p.heads + groups - 1) / groups)};
    return launch(merge_states_kernel<T>, grid, kMergeThreads, 0, stream, p);
  });
}

}  // namespace tts::cuda
