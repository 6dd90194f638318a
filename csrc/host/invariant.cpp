#include "host/invariant.h"

#include <algorithm>
#include <numeric>

namespace tts::host {
namespace {

// Kernels sum up keys in tiles of so many: a split must not end inside one.
constexpr int32_t kTileKeys = 64;
constexpr int32_t kSplitTokens = 256;

}  // namespace

InvariantUnits::InvariantUnits(const UnitOptions& options, int32_t max_rows)
    : page_size_(options.page_size), growth_(options.growth), max_rows_(max_rows) {
  const int32_t wanted = options.split_tokens > 0 ? options.split_tokens : kSplitTokens;
  const int64_t aligned = std::lcm(int64_t{page_size_}, int64_t{kTileKeys});
  split_pages_ = static_cast<int32_t>(aligned * ((wanted + aligned - 1) / aligned) / page_size_);
}

void InvariantUnits::add_leaf(int32_t row_begin, int32_t row_end, int32_t num_shared, int32_t page_begin,
                              int32_t num_pages) {
  close(num_shared);
  for (Run& run : open_) run.row_end = row_end;
  for (int32_t page = num_shared * split_pages_; page < num_pages; page += split_pages_) {
    const int32_t length = std::min(split_pages_, num_pages - page) * page_size_;
    open_.push_back(Run{row_begin, row_end, page_begin, page * page_size_, length});
    page_begin += split_pages_;
  }
}

void InvariantUnits::close(size_t num_shared) {
  if (open_.size() <= num_shared) return;
  closed_.insert(closed_.end(), open_.begin() + num_shared, open_.end());
  open_.resize(num_shared);
}

UnitChoice InvariantUnits::finish(const Ints& row_pos) {
  close(0);
  UnitChoice choice;
  for (const Run& run : closed_) {
    const int32_t rows = run.row_end - run.row_begin, tiles = (rows + max_rows_ - 1) / max_rows_;
    for (int32_t i = 0; i < tiles; ++i) {
      Run tile = run;
      const int32_t end = run.row_begin + static_cast<int32_t>(int64_t{rows} * (i + 1) / tiles);
      tile.row_end = run.row_begin + static_cast<int32_t>(int64_t{rows} * i / tiles);
      while (tile.row_end < end) {
        tile.row_begin = tile.row_end;
        tile.row_end = end;
        tile.row_end = rows_led_by_last(tile, tile.row_begin, row_pos);
        if (growth_ == 0 && row_pos[tile.row_end - 1] < tile.base) continue;
        const int32_t index = static_cast<int32_t>(choice.runs.size());
        choice.units.push_back(Unit{tile.row_begin, tile.row_end, index, index + 1, kNoParts});
        choice.runs.push_back(tile);
      }
    }
  }
  return choice;
}

}  // namespace tts::host
