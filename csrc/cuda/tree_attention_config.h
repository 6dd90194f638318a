// What the attention kernel is compiled for, and the layout of a block's shared memory.
#pragma once
#include "cuda/types.h"

namespace tts::cuda {

// What the kernel gets: the arguments of the op and how the launcher cut them.
struct TreeAttentionWork {
  TreeAttentionParams p;
  int32_t group;      // query heads per kv head
  int32_t tile_rows;  // rows of a tile; a unit of more has several
  int32_t tiles;      // of the unit with the most rows
  bool vectors;       // rows of q, keys, values and out begin at multiples of 16 bytes and are multiples of 16 long
};

// Element: of queries, outputs and of the tiles that are multiplied. eight_bit: what pages hold. head_dim: 64, 128 or
// 256, at least that of the call; the columns behind the call's are zeros. rows: matrix rows (row x query head of the
// kv head) of the tallest tile: 16, 64, 128 or 256. warpgroups: multiplies taller tiles than 16 by warpgroups, for
// 16-bit elements, head_dim 64 and 128, 128 and 256 rows.
template <class Element_, bool eight_bit, int head_dim, int rows, bool warpgroups = false>
struct TreeAttentionConfig {
  using Element = Element_;
  static constexpr bool kEightBit = eight_bit, kTensorCores = sizeof(Element) == 2;
  static constexpr bool kWarpgroups = warpgroups;
  static constexpr int kHeadDim = head_dim, kRows = rows;
  // Warps that have the same rows and keys and different columns of the output: an accumulator of 256 columns leaves
  // too few registers where products are unrolled in registers too.
  static constexpr int kColumnWarps = !kTensorCores && head_dim > 128 ? 2 : 1;
  static constexpr int kThreads = rows > 128 || kColumnWarps > 1 ? 256 : 128;
  static constexpr int kColumns = head_dim / kColumnWarps;
  static constexpr int kRowBytes = head_dim * int(sizeof(Element));
  // Keys of a tile. As many as leave room for two stages beside the queries in 99 KB, what 8.6, 8.9 and 12.0 have;
  // 8-bit tiles bring scales, for which 128 rows of 256 bytes leave no room. 9.0 has more.
  static constexpr bool kCrowded = !warpgroups && (head_dim > 128 || (eight_bit && rows == 128));
  static constexpr int kKeys = !kTensorCores ? 2048 / head_dim : kCrowded ? 32 : 64;
  // A tile is copied while the one before it is multiplied. More stages would cost blocks per multiprocessor.
  static constexpr int kStages = 2;
  static constexpr int kStoredBytes = eight_bit ? 1 : int(sizeof(Element));
  static constexpr int kStoredRowBytes = head_dim * kStoredBytes;
  static constexpr int kTileBytes = kKeys * kRowBytes, kStoredTileBytes = kKeys * kStoredRowBytes;
  // Keys and values as stored, per stage; 8-bit ones are unpacked into one more pair of tiles.
  static constexpr int kKvBytes = kStages * 2 * kStoredTileBytes + (eight_bit ? 2 * kTileBytes : 0);
};

// What rows see of a key: those of the tile in [row_begin, row_end) that are not before its position.
struct alignas(8) Seen {
  int32_t pos;
  uint16_t row_begin, row_end;
};

// A key behind the last position of a read's rows is not there yet; one before the window of the tile's first row is
// out of sight for all.
struct RowBounds {
  int32_t lowest;      // position of a row of the tile
  int32_t before_all;  // no row of the tile sees a key at this position or before
  int32_t before_any;  // some row does not
};

// The keys of one tile: where each is stored and who sees it.
template <class Config>
struct KeySlot {
  alignas(16) Seen seen[Config::kKeys];
  // (page * kv_heads + head) * page_size + offset in the page; -1: no row sees the key, it is not read.
  int32_t token[Config::kKeys];
  float k_scale[Config::kEightBit ? Config::kKeys : 1], v_scale[Config::kEightBit ? Config::kKeys : 1];
  // Whether every row of the tile sees every key, for each 32 keys.
  int32_t whole[(Config::kKeys + 31) / 32];
};

// What is left of a tile when its keys are read; lies where the key slots were.
template <class Config>
struct Finished {
  float lse[Config::kRows];
  int32_t state[Config::kRows];
  // Of the warps that share rows, see merge_warps().
  float top[4 * 16], total[4 * 16];
};

constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

// A tile of rows in shared memory: 128 bytes of all rows, then the next 128 bytes of all. The 16-byte chunks of such a
// line change places by the row's number, so that the same columns of eight rows, which a matrix load touches at once,
// lie in different banks. A tile begins at a multiple of 1024 bytes: a chunk's number is in bits 4 to 6 of its address.
struct SharedTile {
  unsigned char* base;
  int rows;

  static constexpr int kLineBytes = 128;

  __device__ __forceinline__ unsigned char* chunk(int row, int column_chunk) const {
    return base + (column_chunk / 8 * rows + row) * kLineBytes + ((column_chunk % 8 ^ row % 8) << 4);
  }
  // Element `column` of a row.
  template <class T>
  __device__ __forceinline__ T* element(int row, int column) const {
    constexpr int kPerChunk = 16 / int(sizeof(T));
    return reinterpret_cast<T*>(chunk(row, column / kPerChunk)) + column % kPerChunk;
  }
  // From the address of a chunk among the first two of a row to the one `chunks` (even) further.
  __device__ __forceinline__ ptx::SharedAddress advance(ptx::SharedAddress at, int chunks) const {
    return (at ^ (chunks % 8 * 16)) + chunks / 8 * rows * kLineBytes;
  }
};

template <class Config>
struct SharedLayout {
  // One slot for the tile that is multiplied, one for that which is copied, one that is being filled.
  static constexpr int kSlots = Config::kStages + 1;
  static constexpr int kSlotsBytes = kSlots * int(sizeof(KeySlot<Config>));
  static constexpr int kKeyListBytes = kSlotsBytes + int(sizeof(RowBounds)),
                       kFinishedBytes = int(sizeof(Finished<Config>));
  static constexpr int kListBytes = round_up(kKeyListBytes > kFinishedBytes ? kKeyListBytes : kFinishedBytes, 1024);

  // The queries, later the outputs, come last: their number is the launcher's choice.
  static constexpr int bytes(int query_rows) { return Config::kKvBytes + kListBytes + query_rows * Config::kRowBytes; }
  static __device__ __forceinline__ KeySlot<Config>* slots(unsigned char* shared) {
    return reinterpret_cast<KeySlot<Config>*>(shared + Config::kKvBytes);
  }
  static __device__ __forceinline__ RowBounds* bounds(unsigned char* shared) {
    return reinterpret_cast<RowBounds*>(shared + Config::kKvBytes + kSlotsBytes);
  }
  static __device__ __forceinline__ Finished<Config>* finished(unsigned char* shared) {
    return reinterpret_cast<Finished<Config>*>(shared + Config::kKvBytes);
  }
  static __device__ __forceinline__ SharedTile queries(unsigned char* shared, int rows) {
    return {shared + Config::kKvBytes + kListBytes, rows};
  }
  // Keys (which = 0) or values (1) of a stage, as stored.
  static __device__ __forceinline__ unsigned char* stored(unsigned char* shared, int stage, int which) {
    return shared + (stage * 2 + which) * Config::kStoredTileBytes;
  }
  // Keys or values ready to be multiplied.
  static __device__ __forceinline__ SharedTile tile(unsigned char* shared, int stage, int which) {
    if (!Config::kEightBit) return {stored(shared, stage, which), Config::kKeys};
    return {shared + Config::kStages * 2 * Config::kStoredTileBytes + which * Config::kTileBytes, Config::kKeys};
  }
};

// A maximum to subtract: where nothing is seen, -inf - -inf would be NaN.
__device__ __forceinline__ float finite_or_zero(float x) { return x == -INFINITY ? 0.0f : x; }

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// The rows of a block and where their keys are listed.
struct TilePlace {
  int32_t first_row, rows;  // of the plan
  int32_t slot;             // of the first row's part, -1: no row of the unit is joined
  int32_t head;             // kv head
  int32_t num_reads;        // of the unit
  const Read* reads;        // of the unit
  int32_t page_size;

  __device__ __forceinline__ explicit TilePlace(const TreeAttentionWork& work) {
    const unsigned unit = blockIdx.x / unsigned(work.tiles), tile = blockIdx.x % unsigned(work.tiles);
    const Unit of_unit = work.p.units[unit];
    const UnitReads unit_reads = work.p.unit_reads[unit];
    first_row = of_unit.row_begin + int32_t(tile) * work.tile_rows;
    rows = min(of_unit.row_end - first_row, work.tile_rows);
    slot = of_unit.part_begin < 0 ? -1 : of_unit.part_begin + int32_t(tile) * work.tile_rows;
    head = int32_t(blockIdx.y);
    reads = work.p.reads + unit_reads.begin;
    num_reads = unit_reads.end - unit_reads.begin;
    page_size = int32_t(work.p.page_size);
  }
  __device__ __forceinline__ int32_t keys() const { return num_reads * page_size; }
};

}  // namespace tts::cuda
