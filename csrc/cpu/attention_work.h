// One unit of a plan and one kv head: what the ways to attend share.
#pragma once
#include "cpu/kv_tile.h"
#include "online_softmax.h"

namespace tts::TTS_ISA {

inline int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }
inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// A query is one row in one of the query heads that share the kv head; the queries of a row are neighbours.
struct Work {
  const TreeAttentionParams& p;
  const Unit& unit;
  int64_t kv_head, group, queries;
  int32_t *first, *last;  // per query: it sees keys [first, last) of the current run

  Work(const TreeAttentionParams& params, const Unit& u, int64_t head)
      : p(params),
        unit(u),
        kv_head(head),
        group(params.q_heads / params.kv_heads),
        queries((u.row_end - u.row_begin) * group) {}

  int64_t row(int64_t query) const { return unit.row_begin + query / group; }
  int64_t head(int64_t query) const { return kv_head * group + query % group; }
  int64_t query_begin(const Run& run) const { return (run.row_begin - unit.row_begin) * group; }
  int64_t query_end(const Run& run) const { return (run.row_end - unit.row_begin) * group; }

  template <class Query>
  const Query* query_at(int64_t query) const {
    return static_cast<const Query*>(p.q) + row(query) * p.q_stride_row + head(query) * p.q_stride_head;
  }

  // Fills in first and last; [begin, end) is the part of the run that any of its rows sees.
  void look(const Run& run, int64_t& begin, int64_t& end) const {
    begin = run.length, end = 0;
    for (int64_t i = query_begin(run); i < query_end(run); ++i) {
      const int64_t seen = int64_t(p.row_pos[row(i)]) + 1 - run.base;
      const int64_t high = clamp(seen, 0, run.length), low = p.window > 0 ? clamp(seen - p.window, 0, high) : 0;
      first[i] = int32_t(low), last[i] = int32_t(high);
      if (low < high) begin = low < begin ? low : begin, end = high > end ? high : end;
    }
  }

  template <class KV>
  PagedHead<KV> paged(const Run& run) const {
    const int64_t page = p.page_size * p.head_dim, at = kv_head * page;
    const bool scaled = p.k_scales != nullptr;
    return {static_cast<const KV*>(p.k_pages) + at,
            static_cast<const KV*>(p.v_pages) + at,
            scaled ? p.k_scales + kv_head : nullptr,
            scaled ? p.v_scales + kv_head : nullptr,
            p.page_ids + run.page_begin,
            p.kv_heads * page,
            p.kv_heads,
            p.page_size,
            p.head_dim};
  }

  // body(tile, next tile) for the tiles of keys [begin, end). Tiles are aligned to the run, not to that part: which
  // keys share a tile, and with it the rounding of a row's result, does not depend on the other rows.
  template <class KV, class Body>
  void for_each_tile(const Run& run, int64_t begin, int64_t end, const Body& body) const {
    const PagedHead<KV> kv = paged<KV>(run);
    TileTokens<KV> tokens[2];
    int64_t start = begin / kTileKeys * kTileKeys;
    tokens[0].locate(kv, start, begin, clamp(start + kTileKeys, begin, end));
    for (int turn = 0; start < end; turn ^= 1, start += kTileKeys) {
      const int64_t next = start + kTileKeys, tile_end = clamp(next, begin, end);
      tokens[turn ^ 1].locate(kv, next, tile_end, clamp(next + kTileKeys, tile_end, end));
      body(tokens[turn], tokens[turn ^ 1]);
    }
  }
};

}  // namespace tts::TTS_ISA
