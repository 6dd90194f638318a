#include <cmath>

#include "cpu/dispatch.h"
#include "cpu/kv_tile.h"
#include "cpu/multiply.h"
#include "cpu/thread_scratch.h"
#include "online_softmax.h"

namespace tts::TTS_ISA {
namespace {

thread_local ThreadScratch scratch;

// Queries that go through scores, soft-max and values together, so that their scores stay in the nearest cache.
constexpr int64_t kChunk = 48;

int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

// Keys [start, end) of a run.
template <class T>
struct Tile {
  const TileTokens<T>& tokens;
  int64_t start, end;
};

// One unit and one kv head. A query is one row in one of the query heads that share the kv head; the queries of a row
// are neighbours.
template <class T>
class UnitTask {
 public:
  UnitTask(const TreeAttentionParams& p, const Unit& unit, int64_t kv_head);
  void run();

 private:
  void load_queries();
  void attend(const Run& run);
  void attend(const Run& run, int64_t begin, int64_t end);
  void pack(const Tile<T>& tile, const TileTokens<T>& next);
  void attend_packed(const Tile<T>& tile, int64_t query, int64_t queries);
  void attend_in_place(const Tile<T>& tile, const TileTokens<T>& next, int64_t query, int64_t queries);
  void weigh(const Tile<T>& tile, int64_t query, int64_t queries, int64_t vecs);
  Vec finish_scores(float* scores, int64_t vecs, int64_t low, int64_t high) const;
  void write(int64_t query) const;
  Product scores_of(int64_t query) const {
    return {q_ + query * p_.head_dim, p_.head_dim, p_.head_dim, nullptr, scores_, kTileKeys};
  }
  Product values_of(int64_t query, int64_t keys) const {
    return {scores_, kTileKeys, keys, keep_, acc_ + query * acc_stride_, acc_stride_};
  }

  const TreeAttentionParams& p_;
  const Unit& unit_;
  const int64_t kv_head_, group_, queries_, acc_stride_;
  float *q_, *acc_, *max_, *sum_;             // per query: [head_dim], [acc_stride], one, [kLanes]
  int32_t *first_, *last_;                    // per query: it sees keys [first, last) of the current run
  float *scores_, *base_, *keep_, *new_max_;  // per query of a chunk: [kTileKeys], one, one, one
  float *keys_, *values_;                     // one tile
};

template <class T>
UnitTask<T>::UnitTask(const TreeAttentionParams& p, const Unit& unit, int64_t kv_head)
    : p_(p),
      unit_(unit),
      kv_head_(kv_head),
      group_(p.q_heads / p.kv_heads),
      queries_((unit.row_end - unit.row_begin) * group_),
      acc_stride_((p.head_dim + kLanes - 1) / kLanes * kLanes) {
  // Vectors over queries may read behind the last one.
  const int64_t chunk = kChunk + kLanes, per_query = p.head_dim + acc_stride_ + 1 + kLanes + 2;
  const int64_t per_chunk = kChunk * kTileKeys + 3 * chunk, per_tile = kTileKeys * (p.head_dim + acc_stride_);
  scratch.reset(queries_ * per_query + kLanes + per_chunk + per_tile, 12);
  q_ = scratch.take(queries_ * p.head_dim);
  acc_ = scratch.take(queries_ * acc_stride_);
  max_ = scratch.take(queries_ + kLanes);
  sum_ = scratch.take(queries_ * kLanes);
  first_ = reinterpret_cast<int32_t*>(scratch.take(queries_));
  last_ = reinterpret_cast<int32_t*>(scratch.take(queries_));
  scores_ = scratch.take(kChunk * kTileKeys);
  base_ = scratch.take(chunk);
  keep_ = scratch.take(chunk);
  new_max_ = scratch.take(chunk);
  keys_ = scratch.take(kTileKeys * p.head_dim);
  values_ = scratch.take(kTileKeys * acc_stride_);
}

template <class T>
void UnitTask<T>::run() {
  load_queries();
  for (int64_t i = unit_.run_begin; i < unit_.run_end; ++i) attend(p_.runs[i]);
  for (int64_t query = 0; query < queries_; ++query) write(query);
}

template <class T>
void UnitTask<T>::load_queries() {
  const float scale = p_.softcap > 0.0f ? p_.scale / p_.softcap : p_.scale;
  for (int64_t i = 0; i < queries_; ++i) {
    const int64_t row = unit_.row_begin + i / group_, head = kv_head_ * group_ + i % group_;
    const T* from = static_cast<const T*>(p_.q) + row * p_.q_stride_row + head * p_.q_stride_head;
    float* to = q_ + i * p_.head_dim;
    int64_t d = 0;
    for (; d + kLanes <= p_.head_dim; d += kLanes) store(to + d, load(from + d) * scale);
    for (; d < p_.head_dim; ++d) to[d] = to_float(from[d]) * scale;
    max_[i] = -INFINITY;
    store(sum_ + i * kLanes, Vec(0.0f));
  }
  std::memset(acc_, 0, queries_ * acc_stride_ * sizeof(float));
}

template <class T>
void UnitTask<T>::attend(const Run& run) {
  const int64_t query_begin = (run.row_begin - unit_.row_begin) * group_;
  const int64_t query_end = (run.row_end - unit_.row_begin) * group_;
  int64_t begin = run.length, end = 0;
  for (int64_t i = query_begin; i < query_end; ++i) {
    const int64_t seen = int64_t(p_.row_pos[unit_.row_begin + i / group_]) + 1 - run.base;
    const int64_t high = clamp(seen, 0, run.length), low = p_.window > 0 ? clamp(seen - p_.window, 0, high) : 0;
    first_[i] = int32_t(low), last_[i] = int32_t(high);
    if (low < high) begin = low < begin ? low : begin, end = high > end ? high : end;
  }
  if (begin < end) attend(run, begin, end);
}

// The part of the run that any of its rows sees. Tiles are aligned to the run, not to that part: which keys share a
// tile, and with it the rounding of a row's result, does not depend on the other rows.
template <class T>
void UnitTask<T>::attend(const Run& run, int64_t begin, int64_t end) {
  const int64_t first_token = kv_head_ * p_.page_size * p_.head_dim;
  const PagedHead<T> kv{static_cast<const T*>(p_.k_pages) + first_token,
                        static_cast<const T*>(p_.v_pages) + first_token,
                        p_.page_ids + run.page_begin,
                        p_.kv_heads * p_.page_size * p_.head_dim,
                        p_.page_size,
                        p_.head_dim};
  const int64_t query_begin = (run.row_begin - unit_.row_begin) * group_;
  const int64_t queries = (run.row_end - run.row_begin) * group_, chunks = (queries + kChunk - 1) / kChunk;
  // Packing pays when several blocks of queries read what was packed.
  const bool in_place = queries <= kBlockRows && p_.head_dim % kLanes == 0;
  TileTokens<T> tokens[2];
  int64_t start = begin / kTileKeys * kTileKeys;
  tokens[0].locate(kv, start, begin, clamp(start + kTileKeys, begin, end));
  for (int turn = 0; start < end; turn ^= 1, start += kTileKeys) {
    const int64_t next = start + kTileKeys, tile_end = clamp(next, begin, end);
    tokens[turn ^ 1].locate(kv, next, tile_end, clamp(next + kTileKeys, tile_end, end));
    const Tile<T> tile{tokens[turn], start, tile_end};
    if (in_place) {
      attend_in_place(tile, tokens[turn ^ 1], query_begin, queries);
      continue;
    }
    pack(tile, tokens[turn ^ 1]);
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t query = i * queries / chunks;
      attend_packed(tile, query_begin + query, (i + 1) * queries / chunks - query);
    }
  }
}

template <class T>
void UnitTask<T>::pack(const Tile<T>& tile, const TileTokens<T>& next) {
  for (int64_t v = 0; v * kLanes < tile.end - tile.start; ++v) {
    next.prefetch_keys(v, p_.head_dim);
    pack_keys(tile.tokens.keys + v * kLanes, p_.head_dim, keys_ + v * kLanes);
  }
  for (int64_t i = 0; i < tile.end - tile.start; ++i)
    pack_value(tile.tokens.values[i], p_.head_dim, values_ + i * acc_stride_);
}

template <class T>
void UnitTask<T>::attend_packed(const Tile<T>& tile, int64_t query, int64_t queries) {
  int64_t begin = tile.end, end = tile.start;
  for (int64_t i = query; i < query + queries; ++i) {
    begin = first_[i] < begin ? first_[i] : begin;
    end = last_[i] > end ? last_[i] : end;
  }
  if (begin >= tile.end || end <= tile.start) return;
  const int64_t keys = clamp(end, tile.start, tile.end) - tile.start, vecs = (keys + kLanes - 1) / kLanes;
  multiply<PackedRows>(scores_of(query), {keys_, kTileKeys}, queries, vecs);
  weigh(tile, query, queries, vecs);
  multiply<PackedRows>(values_of(query, keys), {values_, acc_stride_}, queries, acc_stride_ / kLanes);
}

template <class T>
void UnitTask<T>::attend_in_place(const Tile<T>& tile, const TileTokens<T>& next, int64_t query, int64_t queries) {
  const int64_t keys = tile.end - tile.start, vecs = (keys + kLanes - 1) / kLanes;
  Product scores = scores_of(query);
  for (int64_t v = 0; v < vecs; ++v, scores.c += kLanes) {
    next.prefetch_keys(v, p_.head_dim);
    multiply_tokens(scores, tile.tokens.keys + v * kLanes, queries, std::make_integer_sequence<int, kBlockRows>{});
  }
  weigh(tile, query, queries, vecs);
  multiply<const T* const*>(values_of(query, keys), tile.tokens.values, queries, acc_stride_ / kLanes);
}

// Soft cap and mask: keys outside [low, high) get -inf. Returns the largest per lane.
template <class T>
Vec UnitTask<T>::finish_scores(float* scores, int64_t vecs, int64_t low, int64_t high) const {
  const Vec lane([](int i) { return float(i); });
  Vec top = -INFINITY;
  for (int64_t v = 0; v < vecs; ++v) {
    Vec x = load(scores + v * kLanes);
    if (p_.softcap > 0.0f) x = p_.softcap * tanh(x);
    const Vec key = lane + float(v * kLanes);
    stdx::where(key < float(low) || key >= float(high), x) = Vec(-INFINITY);
    store(scores + v * kLanes, x);
    top = stdx::max(top, x);
  }
  return top;
}

// Scores become weights relative to the new maximum; keep_ is what the old sums are worth.
template <class T>
void UnitTask<T>::weigh(const Tile<T>& tile, int64_t query, int64_t queries, int64_t vecs) {
  for (int64_t i = 0; i < queries; ++i) {
    float* scores = scores_ + i * kTileKeys;
    const int64_t low = first_[query + i] - tile.start, high = last_[query + i] - tile.start;
    Vec top = -INFINITY;
    if (p_.softcap > 0.0f || low > 0 || high < vecs * kLanes) {
      top = finish_scores(scores, vecs, low, high);
    } else {
      for (int64_t v = 0; v < vecs; ++v) top = stdx::max(top, load(scores + v * kLanes));
    }
    const float highest = stdx::hmax(top), before = max_[query + i];
    new_max_[i] = before > highest ? before : highest;
    base_[i] = safe_max(new_max_[i]);
  }
  for (int64_t i = 0; i < queries; i += kLanes) store(keep_ + i, exp(load(max_ + query + i) - load(base_ + i)));
  for (int64_t i = 0; i < queries; ++i) {
    float *scores = scores_ + i * kTileKeys, *sum = sum_ + (query + i) * kLanes;
    Vec total = keep_[i] * load(sum);
    for (int64_t v = 0; v < vecs; ++v) {
      const Vec weight = exp(load(scores + v * kLanes) - base_[i]);
      store(scores + v * kLanes, weight);
      total += weight;
    }
    store(sum, total);
    max_[query + i] = new_max_[i];
  }
}

template <class Out>
void write_scaled(const float* from, float factor, int64_t head_dim, Out* to) {
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) store(to + d, load(from + d) * factor);
  for (; d < head_dim; ++d) store_float(to + d, from[d] * factor);
}

template <class T>
void UnitTask<T>::write(int64_t query) const {
  const int64_t row = unit_.row_begin + query / group_, head = kv_head_ * group_ + query % group_;
  const float sum = stdx::reduce(load(sum_ + query * kLanes)), inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
  const float lse = state_lse(max_[query], sum);
  const float* acc = acc_ + query * acc_stride_;
  const bool joined = p_.join_ptr[row] < p_.join_ptr[row + 1];
  const int64_t slot = unit_.part_begin + row - unit_.row_begin, at = (joined ? slot : row) * p_.q_heads + head;
  (joined ? p_.part_lse : p_.lse)[at] = lse;
  if (joined) write_scaled(acc, inverse, p_.head_dim, static_cast<float*>(p_.part_out) + at * p_.head_dim);
  else write_scaled(acc, inverse, p_.head_dim, static_cast<T*>(p_.out) + at * p_.head_dim);
}

// One head of one row: the sum of its partial results in the order of the plan, each with its share of the soft-max.
template <class T>
void join_parts(const TreeAttentionParams& p, int64_t row, int64_t head, float* weights, float* total) {
  const int32_t* slots = p.join_slots + p.join_ptr[row];
  const int64_t parts = p.join_ptr[row + 1] - p.join_ptr[row], at = row * p.q_heads + head;
  float max = -INFINITY, sum = 0.0f;
  for (int64_t i = 0; i < parts; ++i) max = std::fmax(max, p.part_lse[slots[i] * p.q_heads + head]);
  for (int64_t i = 0; i < parts; ++i) {
    weights[i] = std::exp(p.part_lse[slots[i] * p.q_heads + head] - safe_max(max));
    sum += weights[i];
  }
  p.lse[at] = state_lse(max, sum);
  std::memset(total, 0, (p.head_dim + kLanes) * sizeof(float));
  for (int64_t i = 0; i < parts; ++i) {
    const float* part = static_cast<const float*>(p.part_out) + (slots[i] * p.q_heads + head) * p.head_dim;
    int64_t d = 0;
    for (; d + kLanes <= p.head_dim; d += kLanes) store(total + d, load(total + d) + weights[i] * load(part + d));
    for (; d < p.head_dim; ++d) total[d] += weights[i] * part[d];
  }
  write_scaled(total, sum == 0.0f ? 0.0f : 1.0f / sum, p.head_dim, static_cast<T*>(p.out) + at * p.head_dim);
}

}  // namespace

void tree_attention(const TreeAttentionParams& p, const Parallel& pool) {
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_task(pool, p.num_units * p.kv_heads,
                  [&](int64_t task) { UnitTask<T>(p, p.units[task / p.kv_heads], task % p.kv_heads).run(); });
    for_each_task(pool, p.join_ptr[p.rows] > 0 ? p.rows : 0, [&](int64_t row) {
      const int64_t parts = p.join_ptr[row + 1] - p.join_ptr[row];
      if (parts == 0) return;
      scratch.reset(parts + p.head_dim + kLanes, 2);
      float *weights = scratch.take(parts), *total = scratch.take(p.head_dim + kLanes);
      for (int64_t head = 0; head < p.q_heads; ++head) join_parts<T>(p, row, head, weights, total);
    });
  });
}

}  // namespace tts::TTS_ISA
