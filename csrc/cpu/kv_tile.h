// Tiles of keys and values where they are in their pages.
#pragma once
#include "cpu/vector_math.h"

namespace tts::TTS_ISA {

constexpr int kTileKeys = 64;
constexpr int kMaxHeadDim = 256;

// Stands in for tokens that must not be read: a weight of zero would not silence the NaN they may hold.
template <class T>
static constexpr T kZeroToken[kMaxHeadDim] = {};

// The pages of one run and kv head. Scales, one per page, are null unless pages hold 8 bits.
template <class T>
struct PagedHead {
  const T *keys, *values;                  // the head's first page, were its id 0
  const float *key_scales, *value_scales;  // the head's of page 0
  const int32_t* page_ids;
  int64_t page_stride, scale_stride, page_size, head_dim;
};

// The tokens of one tile, which holds the keys from `start` of a run on.
template <class T>
struct TileTokens {
  const T *keys[kTileKeys], *values[kTileKeys];
  float key_scales[kTileKeys], value_scales[kTileKeys];
  int64_t start = 0, count = 0;
  bool scaled = false;

  // Keys [begin, end) of a run; places of the tile outside hold zero tokens.
  void locate(const PagedHead<T>& kv, int64_t tile_start, int64_t begin, int64_t end) {
    start = tile_start, count = end - start, scaled = kv.key_scales != nullptr;
    for (int64_t i = 0; i < kTileKeys; ++i) keys[i] = values[i] = kZeroToken<T>;
    int64_t page = begin / kv.page_size, place = begin % kv.page_size;
    for (int64_t i = begin - start; i < count; ++i) {
      const int64_t id = kv.page_ids[page], offset = id * kv.page_stride + place * kv.head_dim;
      keys[i] = kv.keys + offset, values[i] = kv.values + offset;
      if (scaled) {
        key_scales[i] = kv.key_scales[id * kv.scale_stride];
        value_scales[i] = kv.value_scales[id * kv.scale_stride];
      }
      if (++place == kv.page_size) place = 0, ++page;
    }
    if (!scaled) return;
    for (int64_t i = 0; i < kTileKeys; ++i)
      if (i < begin - start || i >= count) key_scales[i] = value_scales[i] = 0.0f;
  }

  // Asks for keys [first, first + number) a tile ahead. Asking for the values too made memory-bound shapes slower.
  void prefetch_keys(int64_t first, int64_t number, int64_t head_dim) const {
    for (int64_t i = first; i < first + number && i < count; ++i) prefetch(keys[i], head_dim);
  }
  static void prefetch(const T* token, int64_t head_dim) {
    for (int64_t d = 0; d < head_dim; d += 64 / int64_t(sizeof(T))) __builtin_prefetch(token + d, 0, 2);
  }
};

// Asks memory for the tokens of a tile, a few cache lines at a time: it takes only so many questions at once.
template <class T>
struct Feed {
  const TileTokens<T>& tile;
  int64_t bytes;
  int64_t token = 0, offset = 0;
  Feed(const TileTokens<T>& next, int64_t head_dim) : tile(next), bytes(head_dim * int64_t(sizeof(T))) {}
  void ask(int lines) {
    for (; lines > 0 && token < 2 * tile.count; --lines, offset += 64) {
      if (offset >= bytes) offset = 0, ++token;
      if (token == 2 * tile.count) return;
      const T* at = token < tile.count ? tile.keys[token] : tile.values[token - tile.count];
      __builtin_prefetch(reinterpret_cast<const char*>(at) + offset, 0, 2);
    }
  }
};

// Half a vector from each of two places.
inline Vec load_halves(const void* low, const void* high) {
  Vec both;
  std::memcpy(reinterpret_cast<char*>(&both), low, sizeof both / 2);
  std::memcpy(reinterpret_cast<char*>(&both) + sizeof both / 2, high, sizeof both / 2);
  return both;
}

// columns[i]: element d + i of each of kLanes tokens.
template <class T>
inline void load_columns(const T* const* tokens, int64_t d, Vec (&columns)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) columns[i] = load(tokens[i] + d);
  transpose<kLanes / 2>(columns);
}

inline void load_columns(const float* const* tokens, int64_t d, Vec (&columns)[kLanes]) {
  constexpr int kHalf = kLanes / 2;
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; ++i) {
    columns[i] = load_halves(tokens[i] + d, tokens[i + kHalf] + d);
    columns[i + kHalf] = load_halves(tokens[i] + d + kHalf, tokens[i + kHalf] + d + kHalf);
  }
  transpose<kHalf / 2>(columns);
}

// Pairs of elements change places as one: half the work.
inline void load_columns(const BFloat16* const* tokens, int64_t d, Vec (&columns)[kLanes]) {
  constexpr int kHalf = kLanes / 2;
  Vec pairs[kHalf];
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; ++i) pairs[i] = load_halves(tokens[i] + d, tokens[i + kHalf] + d);
  transpose<kHalf / 2>(pairs);
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; ++i) {
    columns[2 * i] = bit_cast<Vec>(bit_cast<VecU>(pairs[i]) << 16);
    columns[2 * i + 1] = bit_cast<Vec>(bit_cast<VecU>(pairs[i]) & 0xffff0000u);
  }
}

// The one vector of a token that a head_dim which is no multiple of kLanes leaves over, zeros behind it.
template <class T>
inline Vec load_rest(const T* p, int64_t count) {
  alignas(Vec) float values[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = to_float(p[i]);
  return load(values);
}

template <class T>
inline Vec load_some(const T* p, int64_t count) {
  return count >= kLanes ? load(p) : load_rest(p, count);
}

}  // namespace tts::TTS_ISA
