// Sums over a row in the order of its tokens, and the token where such a sum passes a target.
#pragma once
#include "cuda/sample_children_row.h"
#include "philox.h"

namespace tts::cuda {

// Tokens that a warp reads at a time, and of a run.
template <class T>
constexpr int kTile = kWarp * kWidth<T>;
template <class T>
__device__ __forceinline__ int64_t run_length(int64_t vocab) {
  return (vocab + kRuns * kTile<T> - 1) / (kRuns * kTile<T>)*kTile<T>;
}

// amount(x, token) is at least 0, and 0 for a logit of -inf. Returns the sum over all tokens.
template <class T, class Amount>
__device__ __forceinline__ double sum_runs(const LogitsRow<T>& row, Amount amount, SampleShared& shared) {
  const int64_t length = run_length<T>(row.vocab);
  // Nobody searches the former sums any more.
  __syncthreads();
  for (int run = warp_id(); run < kRuns; run += kSampleWarps) {
    const int64_t begin = run * length, end = min(begin + length, row.vocab);
    double sum = 0.0;
    for (int64_t at = begin + lane_id() * kWidth<T>; at < end; at += kTile<T>) {
      float x[kWidth<T>];
      row.load(at, x);
      for (int i = 0; i < kWidth<T>; ++i) sum += amount(x[i], at + i);
    }
    if (begin < row.vocab) sum = warp_reduce(sum, Sum{});
    if (lane_id() == 0) shared.runs[run] = sum;
  }
  __syncthreads();
  constexpr int kEach = kRuns / kSampleThreads;
  double sums[kEach], mine = 0.0, total;
  for (int i = 0; i < kEach; ++i) sums[i] = mine += shared.runs[threadIdx.x * kEach + i];
  const double before = block_scan(mine, shared.scratch_of<double>(), total) - mine;
  for (int i = 0; i < kEach; ++i) shared.runs[threadIdx.x * kEach + i] = before + sums[i];
  __syncthreads();
  return shared.runs[kRuns - 1];
}

// For a warp: the first token with an amount at which the sum over the tokens passes the target. Rounding may leave it
// a hair short of the target: then the last token of the run with an amount.
template <class T, class Amount>
__device__ __forceinline__ int64_t token_at(const LogitsRow<T>& row, Amount amount, double target,
                                            const SampleShared& shared) {
  int run = 0;
  for (int high = kRuns - 1; run < high;) {
    const int middle = (run + high) / 2;
    if (shared.runs[middle] > target) high = middle;
    else run = middle + 1;
  }
  const int64_t length = run_length<T>(row.vocab), begin = run * length, end = min(begin + length, row.vocab);
  double sum = run > 0 ? shared.runs[run - 1] : 0.0;
  int64_t token = begin;
  for (int64_t first = begin; first < end; first += kTile<T>) {
    const int64_t at = first + lane_id() * kWidth<T>;
    float x[kWidth<T>];
    row.load(at, x);
    double each[kWidth<T>], mine = 0.0;
    for (int i = 0; i < kWidth<T>; ++i) mine += each[i] = amount(x[i], at + i);
    const double through = warp_scan(mine), before = __shfl_up_sync(kAllLanes, through, 1);
    double reached = sum + (lane_id() > 0 ? before : 0.0);
    const unsigned past = __ballot_sync(kAllLanes, mine > 0.0 && sum + through > target);
    for (int i = 0; i < kWidth<T>; ++i) {
      if (each[i] > 0.0 && !(reached > target)) token = at + i;
      reached += each[i];
    }
    if (past != 0) return __shfl_sync(kAllLanes, token, __ffs(int(past)) - 1);
    sum += __shfl_sync(kAllLanes, through, kWarp - 1);
  }
  return warp_reduce(token, Max{});
}

// Draws by inverse distribution function; returns the sum of the weights drawn from.
template <class T>
__device__ __forceinline__ double draw_independent(const LogitsRow<T>& row, const Cut& cut, uint64_t key,
                                                   uint32_t position, int width, int64_t* tokens,
                                                   SampleShared& shared) {
  const auto weight = [&](float x, int64_t token) { return row.kept_weight(cut, x, token); };
  const double total = sum_runs(row, weight, shared);
  for (int child = warp_id(); child < width; child += kSampleWarps) {
    uint32_t words[4] = {position, uint32_t(child), kDraw, 0};
    philox4x32(key, words);
    const int64_t token = token_at(row, weight, philox_uniform(words[0]) * total, shared);
    if (lane_id() == 0) tokens[child] = token;
  }
  return total;
}

}  // namespace tts::cuda
