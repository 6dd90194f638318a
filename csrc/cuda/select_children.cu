#include "cuda/launch.h"
#include "cuda/select_children_group.h"

namespace tts::cuda {

// Sorts the first `padded` keys, a power of two, ascending: bitonic.
__device__ __forceinline__ void sort_keys(uint64_t* keys, int padded) {
  for (int run = 2; run <= padded; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int pair = int(threadIdx.x); pair < padded / 2; pair += kSelectThreads) {
        const int low = pair / distance * 2 * distance + pair % distance, high = low + distance;
        const uint64_t a = keys[low], b = keys[high];
        const bool ascending = (low & run) == 0;
        if ((a > b) == ascending) keys[low] = b, keys[high] = a;
      }
    }
  }
  __syncthreads();
}

// "topk": everybody kept gets the same, the best the remainder. The keys are sorted.
__device__ __forceinline__ void share_evenly(const Group& group, const SelectShared& shared) {
  const int each = int(group.budget / group.count), more = int(group.budget % group.count);
  for (int rank = int(threadIdx.x); rank < group.size; rank += kSelectThreads)
    group.widths[index_of(shared.keys[rank])] = rank < group.count ? each + (rank < more) : 0;
}

// "rebase": in order, each its share of what is left. The keys are sorted.
__device__ __forceinline__ void share_by_weight(const Group& group, double temperature, SelectShared& shared) {
  const float largest = score_of(shared.keys[0]);
  for (int rank = int(threadIdx.x); rank < group.count; rank += kSelectThreads)
    shared.rest[rank] = weight_of(score_of(shared.keys[rank]), largest, temperature);
  for (int i = int(threadIdx.x); i < group.size; i += kSelectThreads) group.widths[i] = 0;
  __syncthreads();
  if (threadIdx.x != 0) return;
  // From the smallest up: no drift, and the last candidate's weight is all that remains when its turn comes.
  for (int rank = group.count - 2; rank >= 0; --rank) shared.rest[rank] += shared.rest[rank + 1];
  int64_t budget = group.budget;
  for (int rank = 0; rank < group.count && budget > 0; ++rank) {
    const double weight = weight_of(score_of(shared.keys[rank]), largest, temperature);
    const int width = share(budget, weight, shared.rest[rank]);
    group.widths[index_of(shared.keys[rank])] = width;
    budget -= width;
  }
}

__device__ __forceinline__ void share_evenly_in_place(const Group& group, SelectShared& shared) {
  const int each = int(group.budget / group.count), more = int(group.budget % group.count);
  const uint64_t last = key_of_rank(group, group.count - 1, shared);
  const uint64_t last_more = more > 0 ? key_of_rank(group, more - 1, shared) : 0;
  for (int i = int(threadIdx.x); i < group.size; i += kSelectThreads) {
    const uint64_t key = key_of(group.scores[i], i);
    group.widths[i] = key <= last ? each + (more > 0 && key <= last_more) : 0;
  }
}

// A pass over the group for every candidate that gets children: finds it, and the weight from it on.
__device__ __forceinline__ void share_by_weight_in_place(const Group& group, double temperature, SelectShared& shared) {
  const uint64_t last = key_of_rank(group, group.count - 1, shared);
  const float largest = score_of(key_of_rank(group, 0, shared));
  for (int i = int(threadIdx.x); i < group.size; i += kSelectThreads) group.widths[i] = 0;
  int64_t budget = group.budget;
  uint64_t done = 0;
  for (int rank = 0; rank < group.count && budget > 0; ++rank) {
    uint64_t next = kNoCandidate;
    double rest = 0.0;
    for (int i = int(threadIdx.x); i < group.size; i += kSelectThreads) {
      const uint64_t key = key_of(group.scores[i], i);
      if (key > last || (rank > 0 && key <= done)) continue;
      next = Min{}(next, key);
      rest += weight_of(score_of(key), largest, temperature);
    }
    done = block_reduce(next, Min{}, shared.scratch);
    rest = block_reduce(rest, Sum{}, reinterpret_cast<double*>(shared.scratch));
    const int width = share(budget, weight_of(score_of(done), largest, temperature), rest);
    // The barriers above come after the zeros.
    if (threadIdx.x == 0) group.widths[index_of(done)] = width;
    budget -= width;
  }
}

// Group blockIdx.x.
__global__ void __launch_bounds__(kSelectThreads)
    select_children_kernel(const __grid_constant__ SelectChildrenParams p) {
  TTS_SHARED_MEMORY(memory);
  auto& shared = *reinterpret_cast<SelectShared*>(memory);
  const int64_t begin = p.offsets[blockIdx.x];
  Group group{p.scores + begin, p.widths + begin, int(p.offsets[blockIdx.x + 1] - begin), 0, p.budget[blockIdx.x]};
  group.count = min(p.keep[blockIdx.x], group.size);
  if (group.count <= 0) {
    for (int i = int(threadIdx.x); i < group.size; i += kSelectThreads) group.widths[i] = 0;
    return;
  }
  const bool even = p.rule == SelectRule::kTopK;
  if (group.size > kSelectSorted) {
    if (even) share_evenly_in_place(group, shared);
    else share_by_weight_in_place(group, p.temperature, shared);
    return;
  }
  int padded = 1;
  while (padded < group.size) padded *= 2;
  for (int i = int(threadIdx.x); i < padded; i += kSelectThreads)
    shared.keys[i] = i < group.size ? key_of(group.scores[i], i) : kNoCandidate;
  sort_keys(shared.keys, padded);
  if (even) share_evenly(group, shared);
  else share_by_weight(group, p.temperature, shared);
}

int select_children(const SelectChildrenParams& p, Stream stream) {
  if (p.groups == 0) return 0;
  return launch(select_children_kernel, {unsigned(p.groups)}, kSelectThreads, sizeof(SelectShared), stream, p);
}

}  // namespace tts::cuda
