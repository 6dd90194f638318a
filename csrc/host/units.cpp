#include "host/units.h"

#include <algorithm>
#include <limits>

namespace tts::host {
namespace {

int32_t ceil_div(int32_t value, int32_t divisor) { return value / divisor + (value % divisor != 0); }

// Begin of part `index` when `total` is cut into `parts` even parts; index == parts gives the end.
int32_t even_cut(int32_t total, int32_t parts, int32_t index) {
  return static_cast<int32_t>(static_cast<int64_t>(total) * index / parts);
}

// Greedy: tiles of at most tile_rows rows, cut at the leaf boundary with the fewest common ancestors. Only boundaries
// in the second half of a tile count, or a tree that sheds one leaf per level would get a tile per row.
class TileCutter {
 public:
  TileCutter(const std::vector<LeafRows>& leaves, int32_t num_rows, int32_t tile_rows)
      : leaves_(leaves), num_rows_(num_rows), tile_rows_(tile_rows) {}

  Ints cut() {
    Ints ends;
    for (int32_t begin = 0; begin < num_rows_; begin = ends.back()) ends.push_back(next_end(begin));
    return ends;
  }

 private:
  int32_t next_end(int32_t begin) {
    if (num_rows_ - begin <= tile_rows_) return num_rows_;
    while (next_ < leaves_.size() && leaves_[next_].row_begin <= begin) ++next_;
    int32_t latest = begin;
    int32_t best = begin;
    int32_t fewest = std::numeric_limits<int32_t>::max();
    for (size_t i = next_; i < leaves_.size() && leaves_[i].row_begin - begin <= tile_rows_; ++i) {
      latest = leaves_[i].row_begin;
      if (latest - begin < tile_rows_ / 2 || leaves_[i].num_shared > fewest) continue;
      best = latest;
      fewest = leaves_[i].num_shared;
    }
    if (best > begin) return best;
    if (latest > begin) return latest;
    return begin + inside_leaf(begin);
  }

  // One leaf has more rows than fit: its tiles are even.
  int32_t inside_leaf(int32_t begin) const {
    const int32_t rows = (next_ < leaves_.size() ? leaves_[next_].row_begin : num_rows_) - begin;
    return ceil_div(rows, ceil_div(rows, tile_rows_));
  }

  const std::vector<LeafRows>& leaves_;
  const int32_t num_rows_;
  const int32_t tile_rows_;
  // first leaf that begins behind the current tile's begin
  size_t next_ = 0;
};

class Chooser {
 public:
  Chooser(const RowTree& tree, const Ints& row_pos, const UnitOptions& options)
      : tree_(tree),
        row_pos_(row_pos),
        options_(options),
        tile_ends_(TileCutter(tree.leaves, static_cast<int32_t>(row_pos.size()), options.tile_rows).cut()),
        folded_(tile_ends_.size()) {}

  UnitChoice choose() {
    for (const Segment& segment : tree_.segments) {
      const size_t first = tile_of(segment.run.row_begin);
      const bool spans_tiles = segment.run.row_end > tile_ends_[first];
      if (segment.run.length > options_.split_tokens || (spans_tiles && !segment.own)) {
        add_units_of(segment.run);
      } else {
        fold(segment.run, first);
      }
    }
    for (const std::vector<Run>& runs : folded_) add_tile_units(runs);
    return std::move(choice_);
  }

 private:
  size_t tile_of(int32_t row) const {
    return std::upper_bound(tile_ends_.begin(), tile_ends_.end(), row) - tile_ends_.begin();
  }

  // Row tiles are the inner loop: neighbours in the launch read the same pages.
  void add_units_of(const Run& run) {
    const int32_t num_pages = run.length / options_.page_size;
    const int32_t num_splits = ceil_div(num_pages, std::max(1, options_.split_tokens / options_.page_size));
    const int32_t num_rows = run.row_end - run.row_begin;
    const int32_t num_tiles = ceil_div(num_rows, options_.tile_rows);
    for (int32_t split = 0; split < num_splits; ++split) {
      const int32_t first_page = even_cut(num_pages, num_splits, split);
      const int32_t end_page = even_cut(num_pages, num_splits, split + 1);
      for (int32_t tile = 0; tile < num_tiles; ++tile) {
        Run piece;
        piece.row_begin = run.row_begin + even_cut(num_rows, num_tiles, tile);
        piece.row_end = run.row_begin + even_cut(num_rows, num_tiles, tile + 1);
        piece.page_begin = run.page_begin + first_page;
        piece.base = run.base + first_page * options_.page_size;
        piece.length = (end_page - first_page) * options_.page_size;
        if (!is_read(piece)) continue;
        begin_unit(piece);
        add_run(piece);
      }
    }
  }

  void fold(const Run& run, size_t tile) {
    for (int32_t begin = run.row_begin; begin < run.row_end; begin = tile_ends_[tile++]) {
      Run piece = run;
      piece.row_begin = begin;
      piece.row_end = std::min(run.row_end, tile_ends_[tile]);
      if (is_read(piece)) folded_[tile].push_back(piece);
    }
  }

  // Rows without a folded run stay outside: they have nothing to contribute to a join.
  void add_tile_units(const std::vector<Run>& runs) {
    for (size_t i = 0; i < runs.size(); ++i) {
      if (i == 0 || runs[i].row_begin > choice_.units.back().row_end) begin_unit(runs[i]);
      add_run(runs[i]);
    }
  }

  // Causal order, when no row will move on: a run behind the last position of its rows is not read at all.
  bool is_read(const Run& run) const {
    if (options_.growth > 0) return true;
    const auto begin = row_pos_.begin();
    return std::any_of(begin + run.row_begin, begin + run.row_end, [&](int32_t pos) { return pos >= run.base; });
  }

  void begin_unit(const Run& run) {
    const int32_t run_begin = static_cast<int32_t>(choice_.runs.size());
    choice_.units.push_back(Unit{run.row_begin, run.row_end, run_begin, run_begin, kNoParts});
  }

  void add_run(const Run& run) {
    Unit& unit = choice_.units.back();
    unit.row_end = std::max(unit.row_end, run.row_end);
    ++unit.run_end;
    choice_.runs.push_back(run);
  }

  const RowTree& tree_;
  const Ints& row_pos_;
  const UnitOptions& options_;
  const Ints tile_ends_;
  // runs that are read together with others, by tile
  std::vector<std::vector<Run>> folded_;
  UnitChoice choice_;
};

}  // namespace

UnitChoice choose_units(const RowTree& tree, const Ints& row_pos, const UnitOptions& options) {
  return Chooser(tree, row_pos, options).choose();
}

}  // namespace tts::host
