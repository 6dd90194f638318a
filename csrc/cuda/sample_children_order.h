// Children in descending order of a score: the Gumbel top-k of distinct draws, and temperature 0.
#pragma once
#include "cuda/sample_children_row.h"
#include "philox.h"

namespace tts::cuda {

// The best tokens that a thread knows of. More are rarely drawn of those of one thread; then all look again.
constexpr int kHeld = 4;

__device__ __forceinline__ bool better(const Entry& a, const Entry& b) {
  return a.score > b.score || (a.score == b.score && a.token < b.token);
}

struct Held {
  Entry entries[kHeld];

  __device__ __forceinline__ Held() {
    for (Entry& entry : entries) entry = {-double(INFINITY), INT32_MAX};
  }
  __device__ __forceinline__ bool is_empty() const { return entries[0].score == -double(INFINITY); }
  __device__ __forceinline__ bool is_full() const { return entries[kHeld - 1].score > -double(INFINITY); }
  // Nothing below this gets in.
  __device__ __forceinline__ double bar() const { return entries[kHeld - 1].score; }
  __device__ __forceinline__ void offer(Entry entry) {
    for (Entry& held : entries) {
      if (!better(entry, held)) continue;
      const Entry worse = held;
      held = entry;
      entry = worse;
    }
  }
  __device__ __forceinline__ void pop() {
    for (int i = 0; i + 1 < kHeld; ++i) entries[i] = entries[i + 1];
    entries[kHeld - 1] = {-double(INFINITY), INT32_MAX};
  }
};

// Every thread gets the best of the block's.
__device__ __forceinline__ Entry block_best(Entry entry, SampleShared& shared) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const Entry other{__shfl_xor_sync(kAllLanes, entry.score, distance),
                      __shfl_xor_sync(kAllLanes, entry.token, distance)};
    if (better(other, entry)) entry = other;
  }
  __syncthreads();
  if (lane_id() == 0) shared.best[warp_id()] = entry;
  __syncthreads();
  entry = shared.best[0];
  for (int warp = 1; warp < kSampleWarps; ++warp) {
    if (better(shared.best[warp], entry)) entry = shared.best[warp];
  }
  return entry;
}

// Scores are the logits.
template <class T>
struct Largest {
  const LogitsRow<T>& row;

  __device__ __forceinline__ void scan(const Entry& after, Held& held) const {
    for_vectors(row, [&](int64_t at, const float(&x)[kWidth<T>]) {
      for (int i = 0; i < kWidth<T>; ++i) {
        const Entry entry{double(x[i]), int(at + i)};
        if (x[i] > -INFINITY && better(after, entry)) held.offer(entry);
      }
    });
  }
};

// Scores are logarithms of weights plus noise. With v = 1 - u the noise -log(-log(u)) is below -log(v), which float32
// tells to a thousandth: few tokens come near the bar, and only they pay for exact logarithms.
template <class T>
struct Perturbed {
  const LogitsRow<T>& row;
  const Cut& cut;
  uint64_t key;
  uint32_t position;

  __device__ __forceinline__ void scan(const Entry& after, Held& held) const {
    for_vectors(row, [&](int64_t at, const float(&x)[kWidth<T>]) {
      unsigned near = 0;
      for (int four = 0; four < kWidth<T>; four += 4) {
        uint32_t words[4] = {position, uint32_t((at + four) / 4), kNoise, 0};
        philox4x32(key, words);
        for (int i = 0; i < 4; ++i) {
          const float bound = 1e-3f - logf((float(~words[i]) + 0.5f) * 0x1p-32f);
          const bool is_near = row.scaled(x[four + i]) + double(bound) >= held.bar();
          if (is_near && cut.keeps(x[four + i], at + four + i)) near |= 1u << (four + i);
        }
      }
      for (; near != 0; near &= near - 1) offer(at + __ffs(int(near)) - 1, after, held);
    });
  }
  // Reads the logit and draws the word again, so that registers hold neither for tokens that are not near.
  __device__ __forceinline__ void offer(int64_t token, const Entry& after, Held& held) const {
    const double log_weight = row.scaled(to_float(row.logits[token]));
    if (cut.min_weight > 0.0 && exp(log_weight) < cut.min_weight) return;
    uint32_t words[4] = {position, uint32_t(token / 4), kNoise, 0};
    philox4x32(key, words);
    const uint32_t upper = token & 1 ? words[3] : words[2], lower = token & 1 ? words[1] : words[0];
    const Entry entry{log_weight - log(-log(philox_uniform(token & 2 ? upper : lower))), int(token)};
    if (better(after, entry)) held.offer(entry);
  }
};

// The first `wanted` tokens in order, fewer when there are no more; returns how many.
template <class Scores>
__device__ __forceinline__ int draw_best(const Scores& scores, int wanted, int64_t* tokens, SampleShared& shared) {
  Entry last{double(INFINITY), -1};
  for (int found = 0;;) {
    Held held;
    scores.scan(last, held);
    const bool may_know_more = held.is_full();
    for (bool again = false; !again;) {
      last = block_best(held.entries[0], shared);
      if (last.score == -double(INFINITY)) return found;
      if (held.entries[0].token == last.token) {
        held.pop();
        tokens[found] = last.token;
        shared.again = may_know_more && held.is_empty();
      }
      if (++found == wanted) return found;
      __syncthreads();
      again = shared.again;
    }
  }
}

}  // namespace tts::cuda
