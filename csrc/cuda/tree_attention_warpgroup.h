// The arithmetic of a tile of rows on compute capability 9.0a: products of 128 threads that read shared memory
// themselves, in the registers of the portable path.
#pragma once
#include <type_traits>

#include "cuda/tree_attention_rows.h"

namespace tts::cuda {

// How the warpgroups of a block share the matrix rows of a tile: each has 64 * tiles rows, warp w of it rows 16w to
// 16w + 15 of every 64. Warps that are left over only copy.
template <int warpgroups, int tiles>
struct WarpgroupSplit {
  static constexpr int kWarpsRows = 4 * warpgroups, kTiles = tiles, kWarpsKeys = 1;
  static constexpr int kRows = warpgroups * tiles * 64, kWarps = kWarpsRows;
  // From a row of a thread's tile to the same of its next tile.
  static constexpr int kStep = 64;

  static __device__ __forceinline__ int first_row(int warp) { return warp / 4 * tiles * 64 + warp % 4 * 16; }
};

// Products of 64 rows, 64 columns and 16 of what is summed.
template <class T, class A>
__device__ __forceinline__ void multiply_warpgroup(float (*c)[4], const A& a, uint64_t b, bool add) {
  if constexpr (std::is_same<T, BFloat16>::value) ptx::multiply_warpgroup_bfloat16(c, a, b, add);
  else ptx::multiply_warpgroup_half(c, a, b, add);
}

// A matrix in shared memory as products take it (PTX ISA, "matrix descriptor"), from a row of the tile that is a
// multiple of 8. Offsets are in units of 16 bytes. Bits 0 to 13: address. 16 to 29: from 64 columns of the tile to the
// next 64; no product here has more, so that none uses it. 32 to 45: from 8 rows of the tile to the next 8, be they
// rows of what is multiplied (queries), columns (keys), or what is summed over (values). 62, 63: 1, the swizzle of
// SharedTile, which goes by bits 7 to 9 of an address: a step inside of a line is a step of the address.
__device__ __forceinline__ uint64_t describe(SharedTile tile, int row) {
  constexpr uint64_t kSwizzle = uint64_t(1) << 62, kEightRows = 8 * SharedTile::kLineBytes / 16;
  const uint32_t begin = ptx::shared_address(tile.base) + row * SharedTile::kLineBytes;
  const uint64_t columns_64 = tile.rows * SharedTile::kLineBytes / 16;
  return kSwizzle | kEightRows << 32 | columns_64 << 16 | begin >> 4;
}

// A warpgroup's work on all keys of a tile: the interface of WarpTile.
template <class Config, int tiles>
class WarpgroupTile : public SoftMax<Config, 1, Config::kKeys> {
  using T = typename Config::Element;
  using Base = SoftMax<Config, 1, Config::kKeys>;
  using typename Base::Scores;
  using Acc = Accumulator<Config, tiles>;
  static_assert(Config::kTensorCores && Config::kKeys == 64 && Config::kHeadDim % 64 == 0, "");
  // Steps of a descriptor: to the next 16 columns of a line, to the next 16 lines.
  static constexpr uint64_t kColumns16 = 16 * 2 / 16, kLines16 = 16 * SharedTile::kLineBytes / 16;

 public:
  __device__ __forceinline__ WarpgroupTile(const TreeAttentionWork& work, SharedTile queries, int, int)
      : Base(work), queries_(queries) {}

  // One tile of rows after the other: the scores of two would not fit the registers.
  __device__ __forceinline__ void attend(Acc& acc, const RowsOfThread<tiles>& rows, const KeySlot<Config>& slot,
                                         SharedTile keys, SharedTile values, int) const {
    const uint64_t keys_at = describe(keys, 0), values_at = describe(values, 0);
    // Of the warpgroup. Found anew each time: held in a register, one of 8-bit pages would be missing.
    const int first_row = int(threadIdx.x / 128) * tiles * 64;
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
      Scores scores;
      multiply_queries(scores[0], describe(queries_, first_row + i * 64), keys_at);
      this->weigh_values(scores, acc, rows, slot, 0, i);
      multiply_values(scores[0], acc.out[i], values_at);
    }
  }

 private:
  // scores = q k
  __device__ __forceinline__ void multiply_queries(float (&scores)[8][4], uint64_t queries, uint64_t keys) const {
    ptx::begin_products(scores);
#pragma unroll
    for (int d = 0; d < Config::kHeadDim / 16; ++d) {
      const uint64_t q = queries + d / 4 * (queries_.rows / 16 * kLines16) + d % 4 * kColumns16;
      const uint64_t k = keys + d / 4 * (Config::kKeys / 16 * kLines16) + d % 4 * kColumns16;
      multiply_warpgroup<T>(scores, q, k, d > 0);
    }
    ptx::commit_products();
    ptx::wait_products(scores);
  }

  // out += exponentials v
  __device__ __forceinline__ void multiply_values(const float (&scores)[8][4], float (&out)[Config::kHeadDim / 8][4],
                                                  uint64_t values) const {
    uint32_t w[Config::kKeys / 16][4];
#pragma unroll
    for (int k = 0; k < Config::kKeys / 16; ++k) pack_weights<T>(w[k], scores, k);
    ptx::begin_products(out);
#pragma unroll
    for (int k = 0; k < Config::kKeys / 16; ++k)
#pragma unroll
      for (int j = 0; j < Config::kHeadDim / 64; ++j)
        multiply_warpgroup<T>(out + 8 * j, w[k], values + j * (Config::kKeys / 16 * kLines16) + k * kLines16, true);
    ptx::commit_products();
    ptx::wait_products(out);
  }

  const SharedTile queries_;
};

// What a thread computes with, for a split of either kind.
template <class Config, class Split, int width>
using TileMath = typename std::conditional<Split::kStep == 64, WarpgroupTile<Config, Split::kTiles>,
                                           WarpTile<Config, Split::kTiles, width>>::type;

}  // namespace tts::cuda
