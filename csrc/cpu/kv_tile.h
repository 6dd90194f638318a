// Tiles of keys and values taken out of their pages.
#pragma once
#include "cpu/vector_math.h"

namespace tts::TTS_ISA {

constexpr int kTileKeys = 64;
constexpr int kMaxHeadDim = 256;

// Stands in for tokens that must not be read: a weight of zero would not silence the NaN they may hold.
template <class T>
static constexpr T kZeroToken[kMaxHeadDim] = {};

// The pages of one run and kv head.
template <class T>
struct PagedHead {
  const T *keys, *values;  // the head's first page, were its id 0
  const int32_t* page_ids;
  int64_t page_stride, page_size, head_dim;
};

// Where the tokens of one tile are.
template <class T>
struct TileTokens {
  const T *keys[kTileKeys], *values[kTileKeys];
  int64_t count;

  // Keys [begin, end) of a run, where tile place 0 is key `start`; places outside hold zero tokens.
  void locate(const PagedHead<T>& kv, int64_t start, int64_t begin, int64_t end) {
    for (int64_t i = 0; i < kTileKeys; ++i) keys[i] = values[i] = kZeroToken<T>;
    int64_t page = begin / kv.page_size, place = begin % kv.page_size;
    for (int64_t i = begin - start; i < end - start; ++i) {
      const int64_t offset = kv.page_ids[page] * kv.page_stride + place * kv.head_dim;
      keys[i] = kv.keys + offset, values[i] = kv.values + offset;
      if (++place == kv.page_size) place = 0, ++page;
    }
    count = end - start;
  }

  // Asks for one vector of keys a tile ahead. Asking for the values too made memory-bound shapes slower.
  void prefetch_keys(int64_t vec, int64_t head_dim) const {
    for (int64_t i = vec * kLanes; i < (vec + 1) * kLanes && i < count; ++i)
      for (int64_t d = 0; d < head_dim; d += 64 / int64_t(sizeof(T))) __builtin_prefetch(keys[i] + d, 0, 2);
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

inline void load_columns(const Float16* const* tokens, int64_t d, Vec (&columns)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) columns[i] = load(tokens[i] + d);
  transpose<kLanes / 2>(columns);
}

// The one vector of a token that a head_dim which is no multiple of kLanes leaves over, zeros behind it.
template <class T>
inline Vec load_rest(const T* p, int64_t count) {
  alignas(Vec) float values[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = to_float(p[i]);
  return load(values);
}

// tile[d][key] for one vector of keys.
template <class T>
inline void pack_keys(const T* const* tokens, int64_t head_dim, float* tile) {
  Vec columns[kLanes];
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) {
    load_columns(tokens, d, columns);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(tile + (d + i) * kTileKeys, columns[i]);
  }
  if (d == head_dim) return;
  for (int i = 0; i < kLanes; ++i) columns[i] = load_rest(tokens[i] + d, head_dim - d);
  transpose<kLanes / 2>(columns);
  for (int i = 0; d + i < head_dim; ++i) store(tile + (d + i) * kTileKeys, columns[i]);
}

// tile[d], zeros behind head_dim.
template <class T>
inline void pack_value(const T* token, int64_t head_dim, float* tile) {
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) store(tile + d, load(token + d));
  if (d < head_dim) store(tile + d, load_rest(token + d, head_dim - d));
}

}  // namespace tts::TTS_ISA
