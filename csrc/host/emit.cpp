#include "host/emit.h"

#include <algorithm>

namespace tts::host {
namespace {

// Begin of part `index` when `total` is cut into `parts` even parts; index == parts gives the end.
int32_t even_cut(int32_t total, int32_t parts, int32_t index) {
  return static_cast<int32_t>(static_cast<int64_t>(total) * index / parts);
}

}  // namespace

UnitChoice Emitter::emit() {
  emit_region(0);
  return std::move(choice_);
}

void Emitter::emit_region(int32_t region) {
  for (const Item& item : partition_.items(region)) {
    if (item.kind == Item::kTile) {
      tile(item, region);
      continue;
    }
    read_apart(item.node, region);
    if (item.kind == Item::kCut) emit_region(item.node);
  }
}

void Emitter::take_path(int32_t node, int32_t region) {
  path_runs_.clear();
  for (; node > region; node = nodes_.nodes[node].parent) path_runs_.push_back(run_of(node));
  std::reverse(path_runs_.begin(), path_runs_.end());
}

// A leaf's rows see less and less of it, from the last to the first.
void Emitter::read_apart(int32_t node, int32_t region) {
  take_path(node, region);
  const auto& [run, own] = tree_.segments[node - 1];
  const int32_t rows = run.row_end - run.row_begin, tiles = prices_.num_tiles(rows);
  const double tokens = nodes_.nodes[node].path.tokens - nodes_.nodes[region].path.tokens;
  for (int32_t i = 0; i < tiles; ++i) {
    const int32_t begin = run.row_begin + even_cut(rows, tiles, i), end = run.row_begin + even_cut(rows, tiles, i + 1);
    const int32_t unseen = own ? row_pos_[run.row_end - 1] - row_pos_[end - 1] : 0;
    pieces(begin, end, std::max(0.0, tokens - unseen));
  }
}

// The path as even pieces, each a unit for the same rows; pages still to be filled go to the last.
void Emitter::pieces(int32_t row_begin, int32_t row_end, double tokens) {
  const int32_t page_size = options_.page_size, count = prices_.num_pieces(row_end - row_begin, tokens);
  const int32_t pages = static_cast<int32_t>(std::ceil(tokens / page_size));
  for (int32_t i = 0; i < count; ++i) {
    const int32_t begin = even_cut(pages, count, i);
    const bool grows = options_.growth > 0 && i + 1 == count;
    const int32_t end = grows ? std::numeric_limits<int32_t>::max() / page_size : even_cut(pages, count, i + 1);
    piece_.clear();
    int32_t before = 0;
    for (const Run& whole : path_runs_) {
      const int32_t length = whole.length / page_size;
      const int32_t first = std::max(begin, before), last = std::min(end, before + length);
      if (first < last) {
        const int32_t skipped = first - before;
        piece_.push_back(Run{row_begin, row_end, whole.page_begin + skipped, whole.base + skipped * page_size,
                             (last - first) * page_size});
      }
      before += length;
    }
    add_unit(row_begin, row_end, piece_);
  }
}

// The path of the first leaf, and every node that is met between it and the last.
void Emitter::tile(const Item& item, int32_t region) {
  const int32_t first = nodes_.leaves[item.begin].node, last = nodes_.leaves[item.end - 1].node;
  take_path(first, region);
  for (int32_t node = first + 1; node <= last; ++node) path_runs_.push_back(run_of(node));
  add_unit(nodes_.row_begin[item.begin], nodes_.row_begin[item.end], path_runs_);
}

void Emitter::add_unit(int32_t row_begin, int32_t row_end, const std::vector<Run>& runs) {
  open_ = false;
  for (Run run : runs) {
    const int32_t end = std::min(run.row_end, row_end);
    for (int32_t begin = std::max(run.row_begin, row_begin); begin < end; begin = run.row_end) {
      run.row_begin = begin;
      run.row_end = end;
      run.row_end = rows_led_by_last(run, begin, row_pos_);
      if (is_read(run)) add_run(run);
    }
  }
}

// Rows without a run to read stay outside where they can: they have nothing to contribute to a join.
void Emitter::add_run(const Run& run) {
  if (!open_ || run.row_begin > choice_.units.back().row_end) {
    const int32_t first = static_cast<int32_t>(choice_.runs.size());
    choice_.units.push_back(Unit{run.row_begin, run.row_end, first, first, kNoParts});
    open_ = true;
  }
  Unit& unit = choice_.units.back();
  unit.row_end = std::max(unit.row_end, run.row_end);
  choice_.runs.push_back(run);
  unit.run_end = static_cast<int32_t>(choice_.runs.size());
}

// Causal order, when no row will move on: a run behind the last position of its rows is not read at all.
bool Emitter::is_read(const Run& run) const {
  if (run.length == 0) return false;
  if (options_.growth > 0) return true;
  const auto begin = row_pos_.begin();
  return std::any_of(begin + run.row_begin, begin + run.row_end, [&](int32_t pos) { return pos >= run.base; });
}

}  // namespace tts::host
