// The attention kernel: a block reads the keys of one unit for one kv head and joins the rows that it completes.
//
// A block's matrix tile has rows x query heads of the kv head, so that a key is loaded once for all of them, and walks
// the unit's reads as one flat list of keys: pages of several runs share a tile of keys.
#pragma once
#include "cuda/launch.h"
#include "cuda/tree_attention_join.h"
#include "cuda/tree_attention_keys.h"
#include "cuda/tree_attention_warpgroup.h"

namespace tts::cuda {

// Copies the queries of the tile; matrix rows behind the last are zeros.
template <class Config>
__device__ __forceinline__ void copy_queries(const TreeAttentionWork& work, const TilePlace& place,
                                             SharedTile queries) {
  using T = typename Config::Element;
  constexpr int kChunks = Config::kRowBytes / 16, kElements = 16 / int(sizeof(T));
  for (int i = int(threadIdx.x); i < queries.rows * kChunks; i += Config::kThreads) {
    const int matrix_row = i / kChunks, chunk = i % kChunks, row = matrix_row / work.group;
    const int head = place.head * work.group + (matrix_row - row * work.group);
    const bool live = row < place.rows && chunk * kElements < work.p.head_dim;
    const int64_t at = live ? int64_t(place.first_row + row) * work.p.q_stride_row + head * work.p.q_stride_head : 0;
    const auto* from =
        reinterpret_cast<const unsigned char*>(static_cast<const T*>(work.p.q) + at) + (live ? chunk * 16 : 0);
    unsigned char* to = queries.chunk(matrix_row, chunk);
    if (work.vectors) ptx::copy_async_16(to, from, live);
    else copy_elements<int(sizeof(T))>(to, from, live ? (work.p.head_dim - chunk * kElements) * int(sizeof(T)) : 0);
  }
}

// Leaves the rows in shared memory. Tiles of keys one after the other: while one is multiplied the next is copied and
// the one after that is looked up.
template <class Config, class Split, int width>
__device__ __forceinline__ void attend_tile(const TreeAttentionWork& work, const TilePlace& place,
                                            unsigned char* shared) {
  using Layout = SharedLayout<Config>;
  constexpr int kKeysPerWarp = Config::kKeys / Split::kWarpsKeys;
  static_assert(kKeysPerWarp % width == 0 && Config::kStages == 2, "");
  const int warp = int(threadIdx.x / 32), key_tiles = (place.keys() + Config::kKeys - 1) / Config::kKeys;
  const int first_row = Split::first_row(warp), share = warp / Split::kWarpsRows;
  static_assert(Split::kWarpsKeys == 1 || Config::kColumnWarps == 1, "warps share either keys or columns");
  const int first_key = Config::kColumnWarps > 1 ? 0 : share * kKeysPerWarp;
  const int first_column = Config::kColumnWarps > 1 ? share * Config::kColumns : 0;
  const bool computes = warp < Split::kWarps * Config::kColumnWarps;
  KeySlot<Config>* slots = Layout::slots(shared);
  KeyFinder<Config> finder(work, place, Layout::bounds(shared));
  finder.advance(slots[0], 0);
  finder.advance(slots[1], 1);
  const SharedTile queries = Layout::queries(shared, Split::kRows);
  copy_queries<Config>(work, place, queries);
  const RowsOfThread<Split::kTiles> rows(work, place, first_row, Split::kStep);
  Accumulator<Config, Split::kTiles> acc;
  const TileMath<Config, Split, width> math(work, queries, first_row, first_column);
  __syncthreads();
  if (key_tiles > 0) copy_tile(work, slots[0], shared, 0);
  ptx::commit_copies();
  for (int tile = 0; tile < key_tiles; ++tile) {
    const int stage = tile % 2, next = (tile + 1) % 2;
    ptx::wait_copies<0>();
    // The tile came as threads store; products of warpgroups read in another way.
    if (Config::kWarpgroups) ptx::publish_to_products();
    // It is there for all, and all are done with the one before it.
    __syncthreads();
    if (tile + 1 < key_tiles) copy_tile(work, slots[(tile + 1) % Layout::kSlots], shared, next);
    ptx::commit_copies();
    finder.advance(slots[(tile + 2) % Layout::kSlots], tile + 2);
    if (Config::kEightBit) {
      unpack_tile<Config>(shared, stage, work.p.stored);
      if (Config::kWarpgroups) ptx::publish_to_products();
      __syncthreads();
    }
    if (!computes) continue;
#pragma unroll 1
    for (int key = first_key; key < first_key + kKeysPerWarp; key += width)
      math.attend(acc, rows, slots[tile % Layout::kSlots], Layout::tile(shared, stage, 0),
                  Layout::tile(shared, stage, 1), key);
  }
  // Scales of tiles that do not exist may be on their way to where the rows are left.
  ptx::commit_copies();
  ptx::wait_copies<0>();
  if (computes) acc.finish(math.unit());
  // Slots, keys and queries are not needed any more. The place is read anew: no register held it meanwhile.
  __syncthreads();
  const TilePlace again(work);
  if constexpr (Split::kWarpsKeys > 1) merge_warps<Config, Split::kWarpsKeys>(work, again, acc, shared);
  else if (computes) stage_rows<Config, Split>(work, again, acc, shared, queries, first_row, first_column);
}

// Sixteen rows: the warps share the keys, as far as each gets enough to multiply.
template <class Config>
struct Narrow {
  static constexpr int kWidth = Config::kTensorCores ? 16 : 8;
  static constexpr int kWarpsKeys = Config::kKeys / kWidth < 4 ? Config::kKeys / kWidth : 4;
  using Split = WarpSplit<1, 1, kWarpsKeys>;
};

// The smallest tile that holds the rows: few rows in a tall one waste registers and tensor cores. A plan that wants the
// same bits whatever a row's company has one tile for all; without tensor cores a second tile beside that of 64 rows
// would spill registers. Returns the matrix rows of the tile.
template <class Config>
__device__ __forceinline__ int fit_tile(const TreeAttentionWork& work, const TilePlace& place, unsigned char* shared) {
  const int matrix_rows = place.rows * work.group, all = work.tile_rows * work.group;
  const int wanted = work.p.invariant ? all : matrix_rows;
  if (Config::kRows == 16 || (Config::kTensorCores && wanted <= 16)) {
    using Tile = Narrow<Config>;
    attend_tile<Config, typename Tile::Split, Tile::kWidth>(work, place, shared);
    return 16;
  } else if constexpr (Config::kRows >= 64) {
    constexpr int kMost = Config::kHeadDim > 128 ? 32 : 64, kWidth = Config::kKeys < kMost ? Config::kKeys : kMost;
    if (Config::kRows == 64 || wanted <= 64) {
      using Split = typename std::conditional<Config::kWarpgroups, WarpgroupSplit<1, 1>, WarpSplit<4, 1, 1>>::type;
      attend_tile<Config, Split, kWidth>(work, place, shared);
      return 64;
    } else if constexpr (Config::kRows > 64) {
      // Two tiles of rows per warp use what they load of keys and values twice; scores of 32 keys then fit the
      // registers.
      constexpr int kWarps = Config::kThreads / 32, kTwice = Config::kWarpgroups ? Config::kKeys : 32;
      using Split =
          typename std::conditional<Config::kWarpgroups, WarpgroupSplit<kWarps / 4, 2>, WarpSplit<kWarps, 2, 1>>::type;
      attend_tile<Config, Split, kTwice>(work, place, shared);
    }
  }
  return Config::kRows;
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    tree_attention_kernel(const __grid_constant__ TreeAttentionWork work) {
  // Never started where its instructions are not.
  if constexpr (Config::kWarpgroups && !ptx::kHasWarpgroups) {
    ptx::trap();
  } else {
    TTS_SHARED_MEMORY(shared);
    const TilePlace place(work);
    // A unit with fewer rows than others.
    if (place.rows <= 0) return;
    const int tile_rows = fit_tile<Config>(work, place, shared);
    __syncthreads();
    RowWriter<Config>(work, TilePlace(work), shared, tile_rows).write();
  }
}

// Launches the kernel for a type of queries, pages in 8 bits or not, and a head_dim of 64, 128 or 256.
template <class Config>
int start_tree_attention(const TreeAttentionWork& work, Stream stream) {
  const int matrix_rows = work.tile_rows * work.group;
  const int query_rows = matrix_rows <= 16 ? 16 : matrix_rows <= 64 ? 64 : Config::kRows;
  const Grid grid{unsigned(work.p.num_units * work.tiles), unsigned(work.p.kv_heads)};
  return launch(tree_attention_kernel<Config>, grid, Config::kThreads, SharedLayout<Config>::bytes(query_rows), stream,
                work);
}

}  // namespace tts::cuda
