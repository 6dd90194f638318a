#include "host/row_tree.h"

#include <algorithm>

namespace tts::host {
namespace {

constexpr int32_t kMaxCuts = 16;
constexpr double kFewTokens = 128, kManyTokens = 512;

}  // namespace

double seen_tokens(const Run& run, const Ints& row_pos, int32_t growth) {
  const int64_t seen = int64_t{row_pos[run.row_end - 1]} + 1 - run.base + growth / 2;
  return static_cast<double>(std::clamp<int64_t>(seen, 0, run.length));
}

SegmentTree::SegmentTree(const RowTree& tree, const Ints& row_pos, int32_t growth, const Costs& costs)
    : nodes(tree.segments.size() + 1) {
  const int32_t num_rows = static_cast<int32_t>(row_pos.size());
  // the last cut point at or above each node
  Ints cut_above(nodes.size(), 0);
  nodes[0].rows = num_rows;
  leaves.reserve(tree.segments.size());
  row_begin.reserve(nodes.size());
  before.reserve(nodes.size());
  open.reserve(tree.segments.size());
  before.push_back(Amount{});
  int32_t parent = 0;
  // of all nodes so far
  Amount met;
  for (int32_t i = 1; i < static_cast<int32_t>(nodes.size()); ++i) {
    const auto& [run, own] = tree.segments[i - 1];
    while (parent > 0 && (tree.segments[parent - 1].own || run.row_end > tree.segments[parent - 1].run.row_end)) {
      parent = nodes[parent].parent;
    }
    TreeNode& node = nodes[i];
    const TreeNode& above = nodes[parent];
    node.parent = parent;
    node.rows = run.row_end - run.row_begin;
    node.leaf_begin = static_cast<int32_t>(leaves.size());
    const double seen = seen_tokens(run, row_pos, growth);
    const double seen_work = seen * costs.padded(std::min(node.rows, costs.max_rows()));
    node.path = Amount{above.path.tokens + seen, above.path.work + seen_work};
    tokens += seen;
    const TreeNode& last = nodes[cut_above[parent]];
    const double between = node.path.tokens - last.path.tokens;
    node.cuts_above = last.cuts_above + last.cut_point;
    node.cut_point = !own && node.cuts_above < kMaxCuts && between > 0 &&
                     (cut_above[parent] == 0 || node.rows < 0.3 * last.rows ||
                      between >= (node.rows < 0.8 * last.rows ? kFewTokens : kManyTokens));
    cut_above[i] = node.cut_point ? i : cut_above[parent];
    met = Amount{met.tokens + seen, met.work + seen_work};
    if (own) {
      leaves.push_back(TreeLeaf{i, -1});
      row_begin.push_back(run.row_begin);
      before.push_back(met);
      open.push_back(Amount{met.tokens - node.path.tokens, met.work - node.path.work});
    }
    parent = i;
  }
  row_begin.push_back(num_rows);
  find_ends(tree);
}

// Where each node's leaves end, and the cut points that end with each leaf.
void SegmentTree::find_ends(const RowTree& tree) {
  nodes[0].leaf_end = num_leaves();
  for (int32_t i = static_cast<int32_t>(nodes.size()) - 1; i > 0; --i) {
    if (tree.segments[i - 1].own) nodes[i].leaf_end = nodes[i].leaf_begin + 1;
    TreeNode& parent = nodes[nodes[i].parent];
    parent.leaf_end = std::max(parent.leaf_end, nodes[i].leaf_end);
  }
  for (int32_t i = 1; i < static_cast<int32_t>(nodes.size()); ++i) {
    if (!nodes[i].cut_point) continue;
    int32_t& last_cut = leaves[nodes[i].leaf_end - 1].last_cut;
    nodes[i].next_cut = last_cut;
    last_cut = i;
  }
}

}  // namespace tts::host
