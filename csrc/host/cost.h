// What a plan costs on a processor: the model that the planner minimises. Times in ns, sizes in bytes.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tts::host {

// Sizes are per kv head. See tts_kernels/processors.py for where the figures come from.
struct Costs {
  // query heads per kv head, and kv heads
  int32_t group = 4;
  int32_t kv_heads = 8;
  // keys and values of one token; query of one row; one partial result of one row, as it is stored
  double kv_bytes = 512;
  double q_bytes = 1024;
  double part_bytes = 1040;
  // multiplications and additions for one query head and token
  double flops = 512;

  // what runs at the same time, and what one of them can do
  int32_t processors = 132;
  double ns_per_byte = 1 / 41.0;
  double ns_per_flop = 1 / 5000.0;
  double unit_ns = 1000;
  // all together, from memory
  double memory_bytes_per_ns = 3350;
  // Among plans that are slower than the fastest by no more than this factor the one that asks for least is taken.
  double tolerance = 1.25;
  // matrix rows (rows x group) that a unit can have; those that are computed come in multiples of step
  int32_t tile = 256;
  int32_t step = 64;
  // Whether the kernel computes all rows of a unit for every token: in the smallest of kTiles that holds them.
  bool whole_tiles = true;
  static constexpr int32_t kTiles[] = {16, 64};

  int32_t max_rows() const { return std::max(1, tile / group); }
  // Matrix rows that `rows` of a run cost.
  double padded(int32_t rows) const { return static_cast<double>((rows * group + step - 1) / step) * step; }
  double tile_rows(int32_t rows) const {
    for (const int32_t small : kTiles) {
      if (rows * group <= small) return small;
    }
    return std::max(tile, rows * group);
  }
  double bytes(int32_t rows, double tokens) const { return tokens * kv_bytes + rows * q_bytes; }
  // A unit of `rows` that reads `tokens`, each for some of its rows: `work` is the sum of their padded matrix rows.
  double unit(int32_t rows, double tokens, double work) const {
    const double computed = whole_tiles ? tokens * tile_rows(rows) : work;
    return unit_ns + std::max(bytes(rows, tokens) * ns_per_byte, computed * flops * ns_per_flop);
  }
  // A row that is read by one unit more is written and read back once more.
  double join(int32_t rows) const { return rows * 2 * part_bytes * ns_per_byte; }
};

}  // namespace tts::host
