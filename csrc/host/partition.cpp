#include "host/partition.h"

#include <algorithm>

namespace tts::host {

Partition::Partition(const SegmentTree& tree, const Prices& prices)
    : tree_(tree), prices_(prices), first_(tree.nodes.size(), 0), cost_(tree.nodes.size(), 0) {
  for (int32_t node = static_cast<int32_t>(tree.nodes.size()) - 1; node >= 0; --node) {
    // A tile takes the node's leaves with all of their paths: no need for a cut.
    const TreeNode& at = tree.nodes[node];
    const bool cut = at.cut_point && prices.may_cut() && !fits(Amount{}, at.leaf_begin, at.leaf_end);
    if (node == 0 || cut) solve(node);
    else cost_[node] = kForever;
  }
}

std::vector<Item> Partition::items(int32_t region) const {
  const TreeNode& root = tree_.nodes[region];
  std::vector<Item> items;
  for (int32_t leaf = root.leaf_end; leaf > root.leaf_begin;) {
    items.push_back(best_[first_[region] + leaf - root.leaf_begin].item);
    leaf = items.back().begin;
  }
  std::reverse(items.begin(), items.end());
  return items;
}

bool Partition::fits(const Amount& above, int32_t begin, int32_t end) const {
  const Amount all = tree_.together(begin, end);
  return prices_.fits(tree_.row_begin[end] - tree_.row_begin[begin], all.tokens - above.tokens, all.work - above.work);
}

void Partition::solve(int32_t region) {
  const TreeNode& root = tree_.nodes[region];
  const Amount above = root.path;
  const auto& row_begin = tree_.row_begin;
  const size_t first = best_.size();
  first_[region] = first;
  best_.push_back(Best{0, {}});
  window_.clear();
  size_t oldest = 0;
  for (int32_t leaf = root.leaf_begin; leaf < root.leaf_end; ++leaf) {
    const double before = best_.back().cost;
    // A tile that begins here, up to what depends on its end.
    const double price = before - prices_.tile(row_begin[leaf], tree_.open[leaf].tokens + above.tokens);
    while (window_.size() > oldest && window_.back().price >= price) window_.pop_back();
    window_.push_back(Begin{leaf, price});
    while (oldest < window_.size() && !fits(above, window_[oldest].leaf, leaf + 1)) ++oldest;

    Best best{before, Item{Item::kPieces, leaf, leaf + 1, tree_.leaves[leaf].node}};
    if (oldest < window_.size()) {
      best.cost =
          window_[oldest].price + prices_.per_tile() + prices_.tile(row_begin[leaf + 1], tree_.before[leaf + 1].tokens);
      best.item = Item{Item::kTile, window_[oldest].leaf, leaf + 1, -1};
    } else {
      best.cost +=
          prices_.paths(row_begin[leaf + 1] - row_begin[leaf], tree_.together(leaf, leaf + 1).tokens - above.tokens);
    }
    for (int32_t node = tree_.leaves[leaf].last_cut; node > region; node = tree_.nodes[node].next_cut) {
      const TreeNode& cut = tree_.nodes[node];
      const double cost = best_[first + cut.leaf_begin - root.leaf_begin].cost + cost_[node] +
                          prices_.band(cut.rows, cut.path.tokens - above.tokens);
      if (cost < best.cost) best = Best{cost, Item{Item::kCut, cut.leaf_begin, leaf + 1, node}};
    }
    best_.push_back(best);
  }
  cost_[region] = best_.back().cost;
}

}  // namespace tts::host
