// Attention of many queries to the same keys: products of matrices. Vectors run along the queries, so keys and weights
// are read as they lie, and the soft-max of a vector of queries needs no sum across its lanes.
#pragma once
#include "cpu/attention_work.h"
#include "cpu/panel.h"
#include "cpu/thread_scratch.h"

namespace tts::TTS_ISA {

// How a tile is laid out for products of floats: keys and values as [kTileKeys][head_dim].
template <class KV, class>
struct TileOf {
  using Element = float;
  static constexpr bool kValuesAcross = true;
  static constexpr int kPerElement = 1;
  // Keys of a tile come in multiples of this.
  static constexpr int64_t kKeys = 1;
  static int64_t depth(int64_t head_dim) { return round_up(head_dim, kLanes); }
  static int64_t values_stride(int64_t head_dim) { return round_up(head_dim, kLanes); }
  static int64_t values_size(int64_t head_dim) { return kTileKeys * values_stride(head_dim); }

  static void pack_token(const KV* from, int64_t head_dim, float* to) {
    for (int64_t d = 0; d < head_dim; d += kLanes) store(to + d, load_some(from + d, head_dim - d));
  }
  static void pack_keys(const TileTokens<KV>& tile, int64_t keys, int64_t head_dim, float* to, int64_t stride) {
    for (int64_t i = 0; i < keys; ++i) pack_token(tile.keys[i], head_dim, to + i * stride);
  }
  static void pack_values(const TileTokens<KV>& tile, int64_t keys, int64_t head_dim, float* to) {
    const int64_t stride = values_stride(head_dim);
    for (int64_t i = 0; i < keys; ++i) pack_token(tile.values[i], head_dim, to + i * stride);
  }
  // to[d][lane] for one vector of queries.
  template <class Query>
  static void pack_queries(const Query* const* from, int64_t head_dim, float* to, int64_t stride) {
    for (int64_t d = 0; d < head_dim; d += kLanes)
      transpose_block([&](int i) { return load_some(from[i] + d, head_dim - d); }, to + d * stride, stride);
  }
  static void store_weights(float* to, int64_t stride, Vec even, Vec odd) {
    store(to, even);
    store(to + stride, odd);
  }
};

#if defined(__AVX512BF16__)
// The bits of bfloat16 in the low halves; 8-bit values have no more digits than fit.
inline VecU words(const BFloat16* p) { return stdx::static_simd_cast<VecU>(VecH(&p->bits, stdx::element_aligned)); }
template <class T>
inline VecU words(const T* p) {
  return bit_cast<VecU>(load(p)) >> 16;
}
template <class T>
inline VecU words_of(const T* p, int64_t count) {
  return count >= kLanes ? words(p) : VecU(bit_cast<VecU>(load_rest(p, count)) >> 16);
}

// The same for products of pairs: values lie as [head_dim][keys], which takes a transpose of 16-bit elements.
template <class KV>
struct TileOf<KV, Pair> {
  using Element = Pair;
  static constexpr bool kValuesAcross = false;
  static constexpr int kPerElement = 2;
  static constexpr int64_t kKeys = 2 * kPanelPairs;
  static int64_t depth(int64_t head_dim) { return round_up(head_dim, 2 * kPanelPairs) / 2; }
  static int64_t values_stride(int64_t) { return kTileKeys / 2; }
  static int64_t values_size(int64_t head_dim) { return kTileKeys / 2 * round_up(head_dim, kPanelRows); }

  static void pack_keys(const TileTokens<KV>& tile, int64_t keys, int64_t head_dim, Pair* to, int64_t stride) {
    for (int64_t i = 0; i < keys; ++i) {
      auto* row = reinterpret_cast<uint16_t*>(to + i * stride);
      for (int64_t d = 0; d < 2 * stride; d += kLanes) {
        const VecU bits = d < head_dim ? words_of(tile.keys[i] + d, head_dim - d) : VecU(0u);
        stdx::static_simd_cast<VecH>(bits).copy_to(row + d, stdx::element_aligned);
      }
    }
  }
  static void pack_values(const TileTokens<KV>& tile, int64_t keys, int64_t head_dim, Pair* to) {
    for (int64_t key = 0; key < keys; key += 2 * kLanes) {
      for (int64_t d = 0; d < head_dim; d += kLanes) {
        const auto both = [&](int i) {
          const KV* const* token = tile.values + key + 2 * i;
          const VecU low = words_of(token[0] + d, head_dim - d), high = words_of(token[1] + d, head_dim - d);
          return bit_cast<Vec>(VecU(low | high << 16));
        };
        transpose_block(both, to + d * (kTileKeys / 2) + key / 2, kTileKeys / 2);
      }
    }
  }
  static void pack_queries(const BFloat16* const* from, int64_t head_dim, Pair* to, int64_t stride) {
    for (int64_t d = 0; d < 2 * depth(head_dim); d += 2 * kLanes) {
      const auto pairs = [&](int i) {
        alignas(64) uint16_t some[2 * kLanes] = {};
        const int64_t left = clamp(head_dim - d, 0, 2 * kLanes);
        std::memcpy(some, from[i] + d, left * sizeof(uint16_t));
        return load(reinterpret_cast<const float*>(some));
      };
      transpose_block(pairs, to + d / 2 * stride, stride);
    }
  }
  static void store_weights(Pair* to, int64_t, Vec even, Vec odd) {
    const auto both = bit_cast<__m512i>(_mm512_cvtne2ps_pbh(bit_cast<__m512>(odd), bit_cast<__m512>(even)));
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, both));
  }
};
#endif

// Queries that go through scores, soft-max and values together, so that their scores stay in the nearest cache.
constexpr int64_t kChunk = kBlockVecs * kLanes;
// Of the next tile, asked for with each block of a product: there are a few dozen.
constexpr int kFeedLines = 8;

template <class KV, class Element>
class Wide {
 public:
  using Layout = TileOf<KV, Element>;
  explicit Wide(const Work& work)
      : w_(work),
        depth_(Layout::depth(work.p.head_dim)),
        head_rows_(round_up(work.p.head_dim, kLanes)),
        stride_(round_up(work.queries, kLanes) + kLanes) {}
  int64_t floats() const {
    return (depth_ + head_rows_ + 2) * stride_ + kTileKeys * (depth_ + kChunk) + Layout::values_size(w_.p.head_dim);
  }
  static constexpr int kPieces = 7;
  void take(ThreadScratch& scratch);
  void attend(const Run& run, int64_t begin, int64_t end);

  bool used() const { return used_; }
  float max(int64_t query) const { return max_[query]; }
  float sum(int64_t query) const { return sum_[query]; }
  // to[i] = what the vector of queries from `query` on has summed so far: [kLanes][head_rows].
  void copy_acc(int64_t query, float* to) const {
    for (int64_t d = 0; d < head_rows_; d += kLanes)
      transpose_block([&](int i) { return load(acc_ + (d + i) * stride_ + query); }, to + d, head_rows_);
  }
  int64_t head_rows() const { return head_rows_; }

 private:
  void start();
  template <class Query>
  void load_queries();
  bool sees(const TileTokens<KV>& tile, int64_t query, int64_t vecs, int64_t& keys) const;
  void attend_chunk(const TileTokens<KV>& tile, Feed<KV>& feed, int64_t query, int64_t vecs, int64_t keys);
  void weigh(const TileTokens<KV>& tile, Feed<KV>& feed, int64_t query, float* scores, int64_t keys);
  Vec finish_scores(const TileTokens<KV>& tile, Vec low, Vec high, float* scores, int64_t keys) const;
  void rescale(int64_t query, Vec keep);

  const Work& w_;
  const int64_t depth_, head_rows_, stride_;
  bool used_ = false;
  Element *q_, *keys_, *values_;        // [depth][stride], [kTileKeys][depth], as the layout has it
  float *acc_, *max_, *sum_, *scores_;  // [head_rows][stride], [stride], [stride], [kTileKeys][kChunk]
};

template <class KV, class Element>
void Wide<KV, Element>::take(ThreadScratch& scratch) {
  const auto elements = [&](int64_t count) { return reinterpret_cast<Element*>(scratch.take(count)); };
  q_ = elements(depth_ * stride_);
  keys_ = elements(kTileKeys * depth_);
  values_ = elements(Layout::values_size(w_.p.head_dim));
  acc_ = scratch.take(head_rows_ * stride_);
  max_ = scratch.take(stride_);
  sum_ = scratch.take(stride_);
  scores_ = scratch.take(kTileKeys * kChunk);
}

template <class KV, class Element>
void Wide<KV, Element>::start() {
  used_ = true;
  if constexpr (Layout::kPerElement == 2) load_queries<BFloat16>();
  else with_dtype(w_.p.dtype, [&](auto type) { load_queries<decltype(type)>(); });
  std::memset(acc_, 0, head_rows_ * stride_ * sizeof(float));
  std::memset(sum_, 0, stride_ * sizeof(float));
  for (int64_t i = 0; i < stride_; ++i) max_[i] = -INFINITY;
}

template <class KV, class Element>
template <class Query>
void Wide<KV, Element>::load_queries() {
  for (int64_t query = 0; query < stride_; query += kLanes) {
    const Query* from[kLanes];
    for (int i = 0; i < kLanes; ++i)
      from[i] = query + i < w_.queries ? w_.template query_at<Query>(query + i) : kZeroToken<Query>;
    Layout::pack_queries(from, w_.p.head_dim, q_ + query, stride_);
  }
}

template <class KV, class Element>
void Wide<KV, Element>::attend(const Run& run, int64_t begin, int64_t end) {
  if (!used_) start();
  const int64_t first = w_.query_begin(run), last = w_.query_end(run);
  // The last vector goes over the queries of other rows, or of none.
  for (int64_t i = last; i < last + kLanes; ++i) w_.first[i] = w_.last[i] = 0;
  w_.template for_each_tile<KV>(run, begin, end, [&](const auto& tile, const auto& next) {
    const int64_t packed = round_up(tile.count, Layout::kKeys);
    Layout::pack_keys(tile, packed, w_.p.head_dim, keys_, depth_);
    Layout::pack_values(tile, packed, w_.p.head_dim, values_);
    Feed<KV> feed(next, w_.p.head_dim);
    for (int64_t query = first; query < last; query += kChunk) {
      const int64_t vecs = ((last - query < kChunk ? last - query : kChunk) + kLanes - 1) / kLanes;
      int64_t keys;
      if (sees(tile, query, vecs, keys)) attend_chunk(tile, feed, query, vecs, keys);
    }
  });
}

// Whether any of the queries sees a key of the tile; those from `keys` on are seen by none.
template <class KV, class Element>
bool Wide<KV, Element>::sees(const TileTokens<KV>& tile, int64_t query, int64_t vecs, int64_t& keys) const {
  VecI low = INT32_MAX, high = 0;
  for (int64_t i = query; i < query + vecs * kLanes; i += kLanes) {
    const VecI first(w_.first + i, stdx::element_aligned), last(w_.last + i, stdx::element_aligned);
    VecI begin = first;
    stdx::where(first >= last, begin) = VecI(INT32_MAX);
    low = stdx::min(low, begin), high = stdx::max(high, last);
  }
  keys = clamp(stdx::hmax(high) - tile.start, 0, tile.count);
  return keys > 0 && stdx::hmin(low) < tile.start + tile.count;
}

template <class KV, class Element>
void Wide<KV, Element>::attend_chunk(const TileTokens<KV>& tile, Feed<KV>& feed, int64_t query, int64_t vecs,
                                     int64_t keys) {
  const auto ask = [&] { feed.ask(kFeedLines); };
  const int64_t padded = round_up(keys, Layout::kKeys);
  multiply<false>(Panel<Element>{keys_, depth_, q_ + query, stride_, depth_, scores_, kChunk}, padded, vecs, false,
                  ask);
  for (int64_t v = 0; v < vecs; ++v) weigh(tile, feed, query + v * kLanes, scores_ + v * kLanes, keys);
  const Panel<Element> values{values_, Layout::values_stride(w_.p.head_dim), reinterpret_cast<Element*>(scores_),
                              kChunk,  padded / Layout::kPerElement,         acc_ + query,
                              stride_};
  multiply<Layout::kValuesAcross>(values, Layout::kPerElement == 2 ? head_rows_ : w_.p.head_dim, vecs, true, ask);
}

// Factors, soft cap and mask: lane i sees keys [low[i], high[i]) of the tile. Returns the largest per lane.
template <class KV, class Element>
Vec Wide<KV, Element>::finish_scores(const TileTokens<KV>& tile, Vec low, Vec high, float* scores, int64_t keys) const {
  const float softcap = w_.p.softcap;
  Vec top = -INFINITY;
  for (int64_t key = 0; key < keys; ++key) {
    Vec x = load(scores + key * kChunk) * (tile.scaled ? w_.p.scale * tile.key_scales[key] : w_.p.scale);
    if (softcap > 0.0f) x = softcap * tanh(x / softcap);
    stdx::where(low > float(key) || high <= float(key), x) = Vec(-INFINITY);
    store(scores + key * kChunk, x);
    top = stdx::max(top, x);
  }
  return top;
}

// Scores of one vector of queries become weights relative to the new maximum, in place.
template <class KV, class Element>
void Wide<KV, Element>::weigh(const TileTokens<KV>& tile, Feed<KV>& feed, int64_t query, float* scores, int64_t keys) {
  const auto from_start = [&](const int32_t* places) {
    return stdx::static_simd_cast<Vec>(VecI(VecI(places + query, stdx::element_aligned) - int32_t(tile.start)));
  };
  const Vec low = from_start(w_.first), high = from_start(w_.last);
  const bool plain = !tile.scaled && w_.p.softcap <= 0.0f && stdx::all_of(low <= 0.0f && high >= float(keys));
  Vec top = -INFINITY;
  if (plain) {
    Vec other = -INFINITY;
    int64_t key = 0;
    for (; key + 1 < keys; key += 2) {
      top = stdx::max(top, load(scores + key * kChunk));
      other = stdx::max(other, load(scores + (key + 1) * kChunk));
    }
    if (key < keys) top = stdx::max(top, load(scores + key * kChunk));
    top = stdx::max(top, other) * w_.p.scale;
  } else {
    top = finish_scores(tile, low, high, scores, keys);
  }
  const Vec factor = plain ? w_.p.scale : 1.0f, before = load(max_ + query), most = stdx::max(before, top);
  Vec base = most;
  stdx::where(most == Vec(-INFINITY), base) = Vec(0.0f);
  const Vec keep = exp(before - base);
  Vec total = keep * load(sum_ + query);
  const auto weight = [&](int64_t key) {
    const Vec w = exp(load(scores + key * kChunk) * factor - base);
    total += w;
    return tile.scaled ? Vec(w * tile.value_scales[key]) : w;
  };
  auto* weights = reinterpret_cast<Element*>(scores);
  for (int64_t key = 0; key < round_up(keys, Layout::kKeys); key += 2) {
    const Vec even = key < keys ? weight(key) : Vec(0.0f), odd = key + 1 < keys ? weight(key + 1) : Vec(0.0f);
    Layout::store_weights(weights + key / Layout::kPerElement * kChunk, kChunk, even, odd);
    feed.ask(1);
  }
  store(sum_ + query, total);
  store(max_ + query, most);
  if (stdx::any_of(keep != Vec(1.0f))) rescale(query, keep);
}

template <class KV, class Element>
void Wide<KV, Element>::rescale(int64_t query, Vec keep) {
  for (int64_t d = 0; d < head_rows_; ++d) store(acc_ + d * stride_ + query, keep * load(acc_ + d * stride_ + query));
}

}  // namespace tts::TTS_ISA
