// top-k and top-p as a cut of the descending order: a radix walk over the bits of the logits, exact for ties. Amounts
// are integers, so that the order of their additions does not matter: a count for top-k, the weight in fixed point for
// top-p, off by at most vocab / unit of the largest weight.
#pragma once
#include "cuda/sample_children_runs.h"

namespace tts::cuda {

// Orders as the float does.
__device__ __forceinline__ uint32_t ordered_key(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of_key(uint32_t key) {
  return bit_cast<float>(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Where a descending walk stops: at this key, of whose ties it takes the first few and drops the others.
struct Stop {
  uint32_t key = 0;
  uint64_t ties = 0, dropped = 0;
};

__device__ __forceinline__ void add_to_bin(SampleShared& shared, uint32_t bin, uint64_t amount) {
  const uint32_t low = uint32_t(amount), before = atomicAdd(&shared.low[bin], low);
  const uint32_t high = uint32_t(amount >> 32) + (before + low < before ? 1u : 0u);
  if (high != 0) atomicAdd(&shared.high[bin], high);
}

// From the largest bin down, the bin where the sum reaches need(total); leaves it in shared.
template <class Need>
__device__ __forceinline__ void choose_bin(SampleShared& shared, Need need) {
  constexpr int kEach = kBins / kSampleThreads;
  const int top = kBins - 1 - int(threadIdx.x) * kEach;
  uint64_t held[kEach], mine = 0, total;
  for (int i = 0; i < kEach; ++i) {
    held[i] = uint64_t(shared.high[top - i]) << 32 | shared.low[top - i];
    mine += held[i];
  }
  const uint64_t reached = block_scan(mine, shared.scratch, total), wanted = need(total);
  uint64_t above = reached - mine;
  for (int i = 0; i < kEach; ++i) {
    if (above < wanted && wanted <= above + held[i]) {
      shared.bin = top - i;
      shared.need = wanted - above;
      shared.here = held[i];
    }
    above += held[i];
  }
  __syncthreads();
}

// Walks down to where the amounts reach need(their total), no further than `outer`; amount(x) is at least 1 there.
template <class T, class Amount, class Need>
__device__ __forceinline__ Stop walk(const LogitsRow<T>& row, const Stop& outer, Amount amount, Need need,
                                     SampleShared& shared) {
  // 11, 11 and 10 bits; a logit of 16 bits has zeros in the last, in a negative's key ones.
  constexpr int kLevels = sizeof(T) == 4 ? 3 : 2;
  uint64_t prefix = 0, needed = 0;
  for (int level = 0; level < kLevels; ++level) {
    const int before = level == 0 ? 32 : level == 1 ? 21 : 10, shift = level == 0 ? 21 : level == 1 ? 10 : 0;
    for (int bin = int(threadIdx.x); bin < kBins; bin += kSampleThreads) shared.low[bin] = shared.high[bin] = 0;
    __syncthreads();
    for_vectors(row, [&](int64_t, const float(&x)[kWidth<T>]) {
      for (int i = 0; i < kWidth<T>; ++i) {
        const uint64_t key = ordered_key(x[i]);
        if (!(x[i] > -INFINITY) || key < outer.key || key >> before != prefix) continue;
        const uint64_t each = amount(x[i]);
        if (each > 0) add_to_bin(shared, uint32_t((key ^ prefix << before) >> shift), each);
      }
    });
    __syncthreads();
    choose_bin(shared, [&](uint64_t total) {
      if (level > 0) return needed;
      return need(total - (outer.dropped > 0 ? outer.dropped * amount(value_of_key(outer.key)) : 0));
    });
    prefix = prefix << (before - shift) | uint64_t(shared.bin);
    needed = shared.need;
  }
  if (kLevels == 2) prefix = prefix << 10 | (prefix >> 21 ? 0u : 1023u);
  const uint64_t each = amount(value_of_key(uint32_t(prefix))), ties = (needed + each - 1) / each;
  return {uint32_t(prefix), ties, shared.here / each - ties};
}

template <class T>
__device__ __forceinline__ Cut find_cut(const LogitsRow<T>& row, int64_t top_k, double top_p, SampleShared& shared) {
  Stop stop;
  if (top_k > 0) {
    const auto need = [&](uint64_t total) { return min(uint64_t(top_k), total); };
    stop = walk(row, stop, [](float) { return uint64_t(1); }, need, shared);
  }
  if (top_p < 1.0) {
    // A power of two with which the weights of a whole row fit 64 bits.
    const int vocab_bits = 32 - __clz(int(row.vocab));
    const double unit = double(uint64_t(1) << min(52, 62 - vocab_bits));
    const auto need = [&](uint64_t total) {
      return min(max(uint64_t(ceil(double(total) * top_p)), uint64_t(1)), total);
    };
    stop = walk(row, stop, [&](float x) { return uint64_t(row.weight(x) * unit + 0.5); }, need, shared);
  }
  Cut cut;
  if (stop.key == 0) return cut;
  cut.value = value_of_key(stop.key);
  if (stop.dropped > 0) {
    const auto is_tie = [&](float x, int64_t) { return x == cut.value ? 1.0 : 0.0; };
    sum_runs(row, is_tie, shared);
    cut.last = token_at(row, is_tie, double(stop.ties) - 0.5, shared);
  }
  return cut;
}

}  // namespace tts::cuda
