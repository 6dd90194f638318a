#include "host/planner.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "host/invariant.h"
#include "host/message.h"

namespace tts::host {
namespace {

constexpr int32_t kMaxInt32 = std::numeric_limits<int32_t>::max();
// Stands for pages that a leaf will only get as it grows; no row reads them before Plan::update fills them in.
constexpr int32_t kPoisonPage = kMaxInt32;

int32_t fit_int32(const char* what, int64_t value) {
  if (value > kMaxInt32) throw std::invalid_argument(message("make_plan: ", what, " must be < 2**31, got ", value));
  return static_cast<int32_t>(value);
}

void require(bool holds, const char* argument, const char* wanted, int64_t got) {
  if (!holds) throw std::invalid_argument(message("make_plan: ", argument, " must be ", wanted, ", got ", got));
}

// Walks the leaves in row order and keeps the path to the last one: a node's rows are the range over which it stays
// on that path.
class SegmentCollector {
 public:
  SegmentCollector(Forest& forest, int32_t growth, InvariantUnits* invariant, Plan& plan)
      : forest_(forest), growth_(growth), mark_(forest.next_mark()), invariant_(invariant), plan_(plan) {}

  PlannedLeaf add_leaf(const Node& node, int32_t argument, int32_t num_rows) {
    const int32_t row_begin = next_row_;
    const int32_t num_shared_tokens = follow_path(node);
    next_row_ = fit_int32("the number of rows", int64_t{next_row_} + num_rows);

    const int32_t page_size = forest_.page_size();
    const int32_t max_end = fit_int32("a leaf's length + growth", int64_t{node.end} + growth_);
    const int32_t num_pages = (max_end - node.base) / page_size + ((max_end - node.base) % page_size != 0);
    const int32_t num_filled = std::min(num_pages, static_cast<int32_t>(node.pages.size()));
    const int32_t num_shared = invariant_ ? num_shared_tokens / invariant_->split_tokens() : 0;
    const int32_t path_begin = invariant_ ? add_path_pages(num_shared) : 0;
    const int32_t page_begin = add_pages(node, num_filled);
    plan_.pages.resize(plan_.pages.size() + num_pages - num_filled, kPoisonPage);
    if (invariant_) {
      const int32_t path_pages = node.base / page_size + num_pages;
      invariant_->add_leaf(row_begin, next_row_, num_shared, path_begin, path_pages);
    }
    add_segment(row_begin, next_row_, invariant_ ? node.id : page_begin, node.base, num_pages, true);
    return PlannedLeaf{&node, argument, row_begin, num_rows, max_end, page_begin, num_pages, num_filled};
  }

  RowTree finish() {
    leave_path(0);
    fit_int32("the number of page entries", static_cast<int64_t>(plan_.pages.size()));
    if (!invariant_) merge_chains();
    return std::move(tree_);
  }

 private:
  struct Step {
    const Node* node;
    // -1: the node has no full page and so nothing to read
    int32_t segment;
  };

  // Makes path_ the ancestors of `leaf`; returns how many tokens of the path stayed.
  int32_t follow_path(const Node& leaf) {
    fresh_.clear();
    Node* node = leaf.parent;
    while (node != nullptr && !on_path(*node)) {
      fresh_.push_back(node);
      node = node->parent;
    }
    leave_path(node == nullptr ? 0 : node->level + 1);
    for (auto step = fresh_.rbegin(); step != fresh_.rend(); ++step) enter(**step);
    return node == nullptr ? 0 : forest_.full_end(*node);
  }

  bool on_path(const Node& node) const {
    return node.level < static_cast<int32_t>(path_.size()) && path_[node.level].node == &node;
  }

  void enter(Node& node) {
    node.level = static_cast<int32_t>(path_.size());
    const int32_t num_pages = (forest_.full_end(node) - node.base) / forest_.page_size();
    if (num_pages == 0) {
      path_.push_back(Step{&node, -1});
      return;
    }
    // Out of depth-first order a node is met again: its pages are listed once.
    if (node.mark != mark_) {
      node.mark = mark_;
      // Rows that share splits, not nodes, have their own lists of pages.
      node.page_begin = invariant_ ? node.id : add_pages(node, num_pages);
    }
    path_.push_back(Step{&node, static_cast<int32_t>(tree_.segments.size())});
    add_segment(next_row_, next_row_, node.page_begin, node.base, num_pages, false);
  }

  // The pages of the path above the leaf from a split on, for rows that share no node's list of them.
  int32_t add_path_pages(int32_t split) {
    const int32_t first = split * (invariant_->split_tokens() / forest_.page_size());
    const int32_t begin = static_cast<int32_t>(plan_.pages.size());
    for (const Step& step : path_) {
      const int32_t base = step.node->base / forest_.page_size();
      const int32_t end = forest_.full_end(*step.node) / forest_.page_size();
      for (int32_t page = std::max(first, base); page < end; ++page) {
        plan_.pages.push_back(step.node->pages[page - base]);
      }
    }
    return begin;
  }

  void leave_path(int32_t level) {
    for (; static_cast<int32_t>(path_.size()) > level; path_.pop_back()) {
      if (path_.back().segment >= 0) tree_.segments[path_.back().segment].run.row_end = next_row_;
    }
  }

  // A parent and its child that the same rows see are one run to them: a step per node must not mean a run per step.
  void merge_chains() {
    std::vector<Segment> merged;
    for (const Segment& segment : tree_.segments) {
      if (merged.empty() || !continues(merged.back().run, segment.run)) {
        merged.push_back(segment);
      } else {
        merged.back().run.length += segment.run.length;
        merged.back().own = segment.own;
      }
    }
    tree_.segments = std::move(merged);
  }

  bool continues(const Run& first, const Run& next) const {
    return first.row_begin == next.row_begin && first.row_end == next.row_end &&
           first.base + first.length == next.base &&
           first.page_begin + first.length / forest_.page_size() == next.page_begin;
  }

  int32_t add_pages(const Node& node, int32_t num_pages) {
    const int32_t page_begin = static_cast<int32_t>(plan_.pages.size());
    plan_.pages.insert(plan_.pages.end(), node.pages.begin(), node.pages.begin() + num_pages);
    return page_begin;
  }

  void add_segment(int32_t row_begin, int32_t row_end, int32_t page_begin, int32_t base, int32_t num_pages, bool own) {
    if (num_pages == 0 && !own) return;
    tree_.segments.push_back(Segment{Run{row_begin, row_end, page_begin, base, num_pages * forest_.page_size()}, own});
  }

  const Forest& forest_;
  const int32_t growth_;
  const uint64_t mark_;
  InvariantUnits* const invariant_;
  Plan& plan_;
  RowTree tree_;
  std::vector<Step> path_;
  // ancestors of the current leaf that the one before did not have, from below
  std::vector<Node*> fresh_;
  int32_t next_row_ = 0;
};

// Calls visit(row, position of the first token that the unit reads for it) for each row of the unit.
template <typename Visit>
void for_each_row(const Plan& plan, const Unit& unit, Ints& firsts, Visit visit) {
  const int32_t num_rows = unit.row_end - unit.row_begin;
  firsts.assign(num_rows, -1);
  int32_t num_left = num_rows;
  for (int32_t r = unit.run_begin; r < unit.run_end && num_left > 0; ++r) {
    const Run& run = plan.runs[r];
    for (int32_t row = run.row_begin; row < run.row_end; ++row) {
      int32_t& first = firsts[row - unit.row_begin];
      if (first >= 0) continue;
      first = run.base;
      --num_left;
    }
  }
  for (int32_t i = 0; i < num_rows; ++i) visit(unit.row_begin + i, firsts[i]);
}

}  // namespace

Plan::Plan(Forest& forest, const Ints& leaves, const Ints& counts, const UnitOptions& options, const Costs& costs)
    : page_size(forest.page_size()), forest_(&forest), version_(forest.version()) {
  require(options.growth >= 0, "growth", ">= 0", options.growth);
  require(options.tile_rows >= 0, "tile_rows", ">= 0", options.tile_rows);
  require(options.split_tokens >= 0, "split_tokens", ">= 0", options.split_tokens);
  if (counts.size() != leaves.size()) {
    throw std::invalid_argument(
        message("make_plan: counts must be [", leaves.size(), "] like leaves, got [", counts.size(), "]"));
  }
  const std::vector<Node*> nodes = forest.resolve_held("make_plan", "leaves", leaves);
  InvariantUnits invariant(options, options.tile_rows > 0 ? options.tile_rows : costs.max_rows());
  SegmentCollector collector(forest, options.growth, options.invariant ? &invariant : nullptr, *this);
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (counts[i] < 0 || counts[i] > nodes[i]->end) {
      throw std::invalid_argument(message("make_plan: counts[", i, "] must be 0..", nodes[i]->end,
                                          ", the length of leaf ", leaves[i], ", got ", counts[i]));
    }
    if (counts[i] > 0) leaves_.push_back(collector.add_leaf(*nodes[i], static_cast<int32_t>(i), counts[i]));
  }
  const RowTree tree = collector.finish();
  row_pos.resize(leaves_.empty() ? 0 : leaves_.back().row_begin + leaves_.back().num_rows);
  for (const PlannedLeaf& leaf : leaves_) write_row_pos(leaf);
  UnitChoice choice = options.invariant ? invariant.finish(row_pos) : choose_units(tree, row_pos, options, costs);
  units = std::move(choice.units);
  runs = std::move(choice.runs);
  ns = choice.ns;
  bytes = choice.bytes;
  lay_out_joins();
  segments.reserve(tree.segments.size());
  for (const Segment& segment : tree.segments) segments.push_back(segment.run);
  if (options.page_reads) page_reads.emplace(units, runs, row_pos, page_size);
}

// Rows of exactly one unit have no entry: that unit writes their result. The order of a row's partials depends on the
// plan alone, never on which unit finishes first.
void Plan::lay_out_joins() {
  const size_t num_rows = row_pos.size();
  Ints num_units(num_rows, 0);
  for (const Unit& unit : units) {
    for (int32_t row = unit.row_begin; row < unit.row_end; ++row) ++num_units[row];
  }
  join_ptr.assign(num_rows + 1, 0);
  int64_t num_joined = 0;
  for (size_t row = 0; row < num_rows; ++row) {
    if (num_units[row] > 1) num_joined += num_units[row];
    join_ptr[row + 1] = fit_int32("the number of partial results", num_joined);
  }

  std::vector<std::pair<int32_t, int32_t>> parts(num_joined);
  Ints next(join_ptr.begin(), join_ptr.end() - 1);
  Ints firsts;
  for (Unit& unit : units) {
    const auto begin = num_units.begin();
    if (std::all_of(begin + unit.row_begin, begin + unit.row_end, [](int32_t n) { return n == 1; })) continue;
    unit.part_begin = num_slots;
    num_slots = fit_int32("the number of slots", int64_t{num_slots} + unit.row_end - unit.row_begin);
    for_each_row(*this, unit, firsts, [&](int32_t row, int32_t position) {
      if (num_units[row] > 1) parts[next[row]++] = {position, unit.part_begin + row - unit.row_begin};
    });
  }

  join_slots.reserve(parts.size());
  for (size_t row = 0; row < num_rows; ++row) {
    std::sort(parts.begin() + join_ptr[row], parts.begin() + join_ptr[row + 1]);
  }
  for (const auto& part : parts) join_slots.push_back(part.second);
}

bool Plan::update(const Forest& forest) {
  if (&forest != forest_) throw std::invalid_argument("update: forest must be the one that the plan was made for");
  if (forest.version() != version_) {
    throw std::invalid_argument(
        message("update: stale plan: made at forest version ", version_, ", got version ", forest.version()));
  }
  for (const PlannedLeaf& leaf : leaves_) {
    if (leaf.node->end <= leaf.max_end) continue;
    throw std::invalid_argument(message("update: leaves[", leaf.argument, "] = ", leaf.node->id, " must be at most ",
                                        leaf.max_end, " tokens long (growth), got ", leaf.node->end));
  }
  bool pages_changed = false;
  for (PlannedLeaf& leaf : leaves_) {
    write_row_pos(leaf);
    const int32_t num_known = std::min(leaf.num_pages, static_cast<int32_t>(leaf.node->pages.size()));
    if (num_known == leaf.num_filled) continue;
    const auto source = leaf.node->pages.begin();
    std::copy(source + leaf.num_filled, source + num_known, pages.begin() + leaf.page_begin + leaf.num_filled);
    leaf.num_filled = num_known;
    pages_changed = true;
  }
  if (page_reads) page_reads->update(row_pos);
  return pages_changed;
}

void Plan::write_row_pos(const PlannedLeaf& leaf) {
  const int32_t first = leaf.node->end - leaf.num_rows;
  for (int32_t i = 0; i < leaf.num_rows; ++i) row_pos[leaf.row_begin + i] = first + i;
}

}  // namespace tts::host
