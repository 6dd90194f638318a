// Keys of a unit on their way into shared memory: found in the plan's lists, copied page by page, unpacked.
#pragma once
#include <type_traits>

#include "cuda/eight_bits.h"
#include "cuda/tree_attention_config.h"

namespace tts::cuda {

// Of the rows of a tile; every lane of a warp gets it.
__device__ __forceinline__ RowBounds row_bounds(const TreeAttentionWork& work, const TilePlace& place) {
  int32_t low = INT32_MAX, high = -1;
  for (int row = int(threadIdx.x) % 32; row < place.rows; row += 32) {
    const int32_t pos = work.p.row_pos[place.first_row + row];
    low = min(low, pos);
    high = max(high, pos);
  }
  for (int step = 16; step > 0; step /= 2) {
    low = min(low, __shfl_xor_sync(kAllLanes, low, step));
    high = max(high, __shfl_xor_sync(kAllLanes, high, step));
  }
  // A window longer than any path is none.
  if (work.p.window == 0 || work.p.window > high) return {low, -1, -1};
  return {low, low - int32_t(work.p.window), high - int32_t(work.p.window)};
}

// One thread per key of a tile follows the plan's lists to it. Each call of advance() takes the keys of three tiles one
// load further, so that no load waits for one of the same call. Few registers: all threads hold them all the time.
template <class Config>
class KeyFinder {
 public:
  __device__ __forceinline__ KeyFinder(const TreeAttentionWork& work, const TilePlace& place, RowBounds* bounds)
      : work_(work), place_(place), bounds_(*bounds), key_(threadIdx.x) {
    if (key_ < 32) {
      const RowBounds found = row_bounds(work, place);
      if (key_ == 0) *bounds = found;
    }
    __syncthreads();
    if (key_ >= Config::kKeys) return;
    load_read(0);
    load_page(0);
    load_read(1);
  }

  // Describes tile number `tile` in `slot`; to be called for one tile after the other, from 0.
  __device__ __forceinline__ void advance(KeySlot<Config>& slot, int tile) {
    if (key_ >= Config::kKeys) return;
    put(slot, tile);
    load_page(tile + 1);
    load_read(tile + 2);
  }

 private:
  // Lanes of a warp that have a key.
  static constexpr unsigned kFinders = Config::kKeys >= 32 ? kAllLanes : (1u << Config::kKeys % 32) - 1;

  __device__ __forceinline__ int32_t offset_in_page(int tile) const {
    return (tile * Config::kKeys + key_) % place_.page_size;
  }

  __device__ __forceinline__ void load_read(int tile) {
    const int32_t index = tile * Config::kKeys + key_;
    read_ = Read{0, 0, 0, 0};
    if (index < place_.keys()) read_ = place_.reads[index / place_.page_size];
  }

  // Behind the unit's last key the read has no rows.
  __device__ __forceinline__ void load_page(int tile) {
    seen_.pos = read_.base + offset_in_page(tile);
    seen_.row_begin = uint16_t(min(max(read_.row_begin - place_.first_row, 0), place_.rows));
    seen_.row_end = uint16_t(min(max(read_.row_end - place_.first_row, 0), place_.rows));
    last_ = -1;
    if (read_.row_end > 0) {
      page_ = work_.p.page_ids[read_.page];
      last_ = work_.p.row_pos[read_.row_end - 1];
    }
  }

  __device__ __forceinline__ void put(KeySlot<Config>& slot, int tile) {
    const bool here = seen_.pos <= last_ && seen_.pos > bounds_.before_all;
    bool whole = seen_.row_begin == 0 && seen_.row_end == place_.rows && here;
    whole = whole && seen_.pos <= bounds_.lowest && seen_.pos > bounds_.before_any;
    if (!here) seen_.row_end = 0;
    const int64_t slab = here ? int64_t(page_) * work_.p.kv_heads + place_.head : 0;
    slot.seen[key_] = seen_;
    slot.token[key_] = here ? int32_t(slab * work_.p.page_size) + offset_in_page(tile) : -1;
    if (Config::kEightBit) {
      // Arrive with the tile itself.
      ptx::copy_async_4(&slot.k_scale[key_], work_.p.k_scales + slab, here);
      ptx::copy_async_4(&slot.v_scale[key_], work_.p.v_scales + slab, here);
    }
    whole = __all_sync(kFinders, whole);
    if (key_ % 32 == 0) slot.whole[key_ / 32] = whole;
  }

  const TreeAttentionWork& work_;
  const TilePlace& place_;
  const RowBounds& bounds_;
  const int key_;
  // Of one tile; of the tile before it what is left of its read, and what that led to.
  Read read_;
  Seen seen_;
  int32_t page_, last_;
};

// 16 bytes by elements of `size`, zeros behind the first `bytes`.
template <int size>
__device__ __forceinline__ void copy_elements(unsigned char* to, const unsigned char* from, int64_t bytes) {
  using Word = typename std::conditional<size == 1, uint8_t,
                                         typename std::conditional<size == 2, uint16_t, uint32_t>::type>::type;
#pragma unroll
  for (int i = 0; i < 16 / size; ++i)
    reinterpret_cast<Word*>(to)[i] = i * size < bytes ? reinterpret_cast<const Word*>(from)[i] : Word(0);
}

// Starts copying the keys and values of a slot into a stage.
template <class Config>
__device__ __forceinline__ void copy_tile(const TreeAttentionWork& work, const KeySlot<Config>& slot,
                                          unsigned char* shared, int stage) {
  using Layout = SharedLayout<Config>;
  constexpr int kChunks = Config::kStoredRowBytes / 16, kStep = Config::kThreads / kChunks;
  const int chunk = int(threadIdx.x) % kChunks;
  const int64_t row_bytes = work.p.head_dim * Config::kStoredBytes;
  const int64_t column = int64_t(chunk) * 16;
#pragma unroll 4
  for (int i = 0; i < (Config::kKeys + kStep - 1) / kStep; ++i) {
    const int key = i * kStep + int(threadIdx.x) / kChunks;
    if (Config::kKeys % kStep != 0 && key >= Config::kKeys) break;
    const int32_t token = slot.token[key];
    const bool live = token >= 0 && column < row_bytes;
    const int64_t at = live ? token * row_bytes + column : 0;
    // 8-bit tiles are read in order when they are unpacked: they need no swizzle.
    const int linear = key * Config::kStoredRowBytes + chunk * 16;
    unsigned char* to[2];
    for (int which = 0; which < 2; ++which) {
      if (Config::kEightBit) to[which] = Layout::stored(shared, stage, which) + linear;
      else to[which] = Layout::tile(shared, stage, which).chunk(key, chunk);
    }
    const auto* k = static_cast<const unsigned char*>(work.p.k_pages) + at;
    const auto* v = static_cast<const unsigned char*>(work.p.v_pages) + at;
    if (work.vectors) {
      ptx::copy_async_16(to[0], k, live);
      ptx::copy_async_16(to[1], v, live);
    } else {
      copy_elements<Config::kStoredBytes>(to[0], k, live ? row_bytes - column : 0);
      copy_elements<Config::kStoredBytes>(to[1], v, live ? row_bytes - column : 0);
    }
  }
}

__device__ __forceinline__ float unpack_byte(uint32_t word, int byte, Stored stored) {
  const auto bits = uint8_t(word >> 8 * byte);
  return stored == Stored::kInt8 ? float(int8_t(bits)) : float_of_float8(bits);
}

// The elements that fill 16 bytes in T, from the one after `part` times as many.
template <class T>
__device__ __forceinline__ Vec16 unpack_chunk(const Vec16& from, int part, Stored stored);
template <>
__device__ __forceinline__ Vec16 unpack_chunk<float>(const Vec16& from, int part, Stored stored) {
  Vec16 to;
#pragma unroll
  for (int i = 0; i < 4; ++i) to.words[i] = bit_cast<uint32_t>(unpack_byte(from.words[part], i, stored));
  return to;
}
template <class T>
__device__ __forceinline__ Vec16 unpack_chunk(const Vec16& from, int part, Stored stored) {
  // Indexing by a number that is not constant would put the words into local memory.
  const uint32_t words[2] = {part ? from.words[2] : from.words[0], part ? from.words[3] : from.words[1]};
  Vec16 to;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int byte = i % 2 * 2;
    to.words[i] = pack<T>(unpack_byte(words[i / 2], byte, stored), unpack_byte(words[i / 2], byte + 1, stored));
  }
  return to;
}

// Unpacks 8-bit keys and values; integers and 8-bit floats are exact in every element type.
template <class Config>
__device__ __forceinline__ void unpack_tile(unsigned char* shared, int stage, Stored stored) {
  using Layout = SharedLayout<Config>;
  using T = typename Config::Element;
  constexpr int kChunks = Config::kStoredRowBytes / 16, kOut = int(sizeof(T));
  // Unrolled, what is loaded would fill the registers beside the accumulator.
#pragma unroll 1
  for (int i = int(threadIdx.x); i < 2 * Config::kKeys * kChunks; i += Config::kThreads) {
    const int which = i / (Config::kKeys * kChunks), key = i / kChunks % Config::kKeys, chunk = i % kChunks;
    const auto from = *reinterpret_cast<const Vec16*>(Layout::stored(shared, stage, which) +
                                                      key * Config::kStoredRowBytes + chunk * 16);
    const SharedTile tile = Layout::tile(shared, stage, which);
#pragma unroll
    for (int j = 0; j < kOut; ++j) {
      // Half of the lanes write their two chunks the other way round: eight lanes then meet in no bank.
      const int part = kOut == 2 && (chunk & 4) ? 1 - j : j;
      *reinterpret_cast<Vec16*>(tile.chunk(key, chunk * kOut + part)) = unpack_chunk<T>(from, part, stored);
    }
  }
}

}  // namespace tts::cuda
