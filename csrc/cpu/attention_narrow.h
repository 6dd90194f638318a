// Attention of so few queries that each token is used where it is as soon as it is read: a leaf's own tail.
#pragma once
#include "cpu/attention_work.h"
#include "cpu/panel.h"
#include "cpu/thread_scratch.h"

namespace tts::TTS_ISA {

constexpr int kNarrowQueries = 6;
constexpr int kNarrowVecs = 4;

// scores[m][n] = sum_k q[m][k] * token n[k] for one vector of tokens.
template <int kRows, class KV>
static void score_tokens(const float* q, int64_t head_dim, const KV* const* tokens, float* scores) {
  Vec total[kRows];
  for (int64_t k = 0; k < head_dim;) {
    const bool first = k == 0;
    const int64_t end = head_dim - k < kShortSum ? head_dim : k + kShortSum;
    Vec sum[kRows] = {};
    for (; k < end; k += kLanes) {
      Vec columns[kLanes];
      load_columns(tokens, k, columns);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sum[r] += q[r * head_dim + k + i] * columns[i];
    }
    for (int r = 0; r < kRows; ++r) total[r] = first ? sum[r] : total[r] + sum[r];
  }
  for (int r = 0; r < kRows; ++r) store(scores + r * kTileKeys, total[r]);
}

// acc[m] = keep[m] * acc[m] + sum_k weights[m][k] * token k, for kVecs vectors of the head from `col` on.
template <int kRows, int kVecs, class KV>
static void add_tokens(const float* weights, const float* keep, const KV* const* tokens, int64_t count, float* acc,
                       int64_t head_dim, int64_t col) {
  for (int64_t k = 0; k < count;) {
    const bool first = k == 0;
    const int64_t end = count - k < kShortSum ? count : k + kShortSum;
    Vec sum[kRows][kVecs] = {};
#pragma GCC unroll 1
    for (; k < end; ++k) {
      Vec right[kVecs];
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) right[v] = load(tokens[k] + col + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVecs; ++v) sum[r][v] += weights[r * kTileKeys + k] * right[v];
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        float* to = acc + r * head_dim + col + v * kLanes;
        store(to, (first ? keep[r] : 1.0f) * load(to) + sum[r][v]);
      }
  }
}

// Calls body with its argument, 1 to kMost, as a constant.
template <int kMost, class Body>
inline void with_constant(int64_t value, const Body& body) {
  if constexpr (kMost > 1)
    if (value < kMost) return with_constant<kMost - 1>(value, body);
  body(std::integral_constant<int, kMost>{});
}

template <class KV>
class Narrow {
 public:
  explicit Narrow(const Work& work) : w_(work) {}
  static bool fits(const Work& work, int64_t queries) {
    // Invariant results come from one way to compute, whatever the number of queries.
    return queries <= kNarrowQueries && work.p.head_dim % kLanes == 0 && !work.p.invariant;
  }
  static int64_t floats(const Work& work) {
    return work.queries * (2 * work.p.head_dim + 1 + kLanes) + kNarrowQueries * kTileKeys;
  }
  static constexpr int kPieces = 5;
  void take(ThreadScratch& scratch);
  void attend(const Run& run, int64_t begin, int64_t end);

  bool used() const { return used_; }
  float max(int64_t query) const { return max_[query]; }
  float sum(int64_t query) const { return stdx::reduce(load(sum_ + query * kLanes)); }
  const float* acc(int64_t query) const { return acc_ + query * w_.p.head_dim; }

 private:
  void start();
  template <class Query>
  void load_queries();
  template <int kRows>
  void attend_tile(const TileTokens<KV>& tile, const TileTokens<KV>& next, int64_t query);
  void weigh(const TileTokens<KV>& tile, int64_t query, int i, float& keep);

  const Work& w_;
  bool used_ = false;
  float *q_, *acc_, *max_, *sum_;  // per query: [head_dim], [head_dim], one, [kLanes]
  float* scores_;                  // per query of a run: [kTileKeys]
};

template <class KV>
void Narrow<KV>::take(ThreadScratch& scratch) {
  q_ = scratch.take(w_.queries * w_.p.head_dim);
  acc_ = scratch.take(w_.queries * w_.p.head_dim);
  max_ = scratch.take(w_.queries);
  sum_ = scratch.take(w_.queries * kLanes);
  scores_ = scratch.take(kNarrowQueries * kTileKeys);
}

template <class KV>
void Narrow<KV>::start() {
  used_ = true;
  with_dtype(w_.p.dtype, [&](auto type) { load_queries<decltype(type)>(); });
  std::memset(acc_, 0, w_.queries * w_.p.head_dim * sizeof(float));
  std::memset(sum_, 0, w_.queries * kLanes * sizeof(float));
  for (int64_t i = 0; i < w_.queries; ++i) max_[i] = -INFINITY;
}

template <class KV>
template <class Query>
void Narrow<KV>::load_queries() {
  const int64_t head_dim = w_.p.head_dim;
  for (int64_t i = 0; i < w_.queries; ++i) {
    const Query* from = w_.query_at<Query>(i);
    for (int64_t d = 0; d < head_dim; d += kLanes) store(q_ + i * head_dim + d, load(from + d) * w_.p.scale);
  }
}

template <class KV>
void Narrow<KV>::attend(const Run& run, int64_t begin, int64_t end) {
  if (!used_) start();
  const int64_t query = w_.query_begin(run);
  with_constant<kNarrowQueries>(w_.query_end(run) - query, [&](auto rows) {
    w_.template for_each_tile<KV>(run, begin, end, [&](const auto& tile, const auto& next) {
      attend_tile<decltype(rows)::value>(tile, next, query);
    });
  });
}

template <class KV>
template <int kRows>
void Narrow<KV>::attend_tile(const TileTokens<KV>& tile, const TileTokens<KV>& next, int64_t query) {
  const int64_t head_dim = w_.p.head_dim;
  float keep[kRows];
  for (int64_t key = 0; key < tile.count; key += kLanes) {
    next.prefetch_keys(key, kLanes, head_dim);
    score_tokens<kRows>(q_ + query * head_dim, head_dim, tile.keys + key, scores_ + key);
  }
  for (int i = 0; i < kRows; ++i) weigh(tile, query + i, i, keep[i]);
  float* acc = acc_ + query * head_dim;
  int64_t col = 0;
  for (; col + kNarrowVecs * kLanes <= head_dim; col += kNarrowVecs * kLanes)
    add_tokens<kRows, kNarrowVecs>(scores_, keep, tile.values, tile.count, acc, head_dim, col);
  for (; col < head_dim; col += kLanes)
    add_tokens<kRows, 1>(scores_, keep, tile.values, tile.count, acc, head_dim, col);
}

// Scores become weights relative to the new maximum; keep is what the old sums are worth.
template <class KV>
void Narrow<KV>::weigh(const TileTokens<KV>& tile, int64_t query, int i, float& keep) {
  const Vec lane([](int j) { return float(j); });
  float* scores = scores_ + i * kTileKeys;
  const float softcap = w_.p.softcap;
  const int64_t low = w_.first[query] - tile.start, high = w_.last[query] - tile.start;
  Vec top = -INFINITY;
  for (int64_t key = 0; key < tile.count; key += kLanes) {
    Vec x = load(scores + key);
    if (tile.scaled) x *= load(tile.key_scales + key);
    if (softcap > 0.0f) x = softcap * tanh(x / softcap);
    if (low > key || high < key + kLanes) {
      const Vec at = lane + float(key);
      stdx::where(at < float(low) || at >= float(high), x) = Vec(-INFINITY);
    }
    store(scores + key, x);
    top = stdx::max(top, x);
  }
  const float highest = stdx::hmax(top), before = max_[query], most = before > highest ? before : highest;
  const float base = safe_max(most);
  keep = exp(Vec(before - base))[0];
  Vec total = keep * load(sum_ + query * kLanes);
  for (int64_t key = 0; key < tile.count; key += kLanes) {
    const Vec weight = exp(load(scores + key) - base);
    total += weight;
    store(scores + key, tile.scaled ? Vec(weight * load(tile.value_scales + key)) : weight);
  }
  store(sum_ + query * kLanes, total);
  max_[query] = most;
}

}  // namespace tts::TTS_ISA
