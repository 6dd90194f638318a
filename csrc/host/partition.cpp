#include "host/partition.h"

#include <algorithm>

namespace tts::host {

Partition::Partition(const SegmentTree& tree, const Prices& prices)
    : tree_(tree), prices_(prices), first_(tree.nodes.size(), 0), cost_(tree.nodes.size(), 0) {
  for (int32_t node = static_cast<int32_t>(tree.nodes.size()) - 1; node >= 0; --node) {
    // A tile takes the node's leaves with all of their paths: no need for a cut.
    const bool small = node > 0 && fits(0, tree.nodes[node].leaf_begin, tree.nodes[node].leaf_end);
    if (small) cost_[node] = std::numeric_limits<double>::infinity();
    else if (node == 0 || tree.nodes[node].cut_point) solve(node);
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

// Tokens below the region's root that leaves [begin, end) read together.
double Partition::tokens(int32_t region, int32_t begin, int32_t end) const {
  const auto& leaves = tree_.leaves;
  return leaves[begin].path.tokens - tree_.nodes[region].path.tokens + leaves[end].fresh.tokens -
         leaves[begin + 1].fresh.tokens;
}

double Partition::work(int32_t region, int32_t begin, int32_t end) const {
  const auto& leaves = tree_.leaves;
  return leaves[begin].path.work - tree_.nodes[region].path.work + leaves[end].fresh.work -
         leaves[begin + 1].fresh.work;
}

bool Partition::fits(int32_t region, int32_t begin, int32_t end) const {
  const int32_t rows = tree_.leaves[end].row_begin - tree_.leaves[begin].row_begin;
  return prices_.fits(rows, tokens(region, begin, end), work(region, begin, end));
}

void Partition::solve(int32_t region) {
  const TreeNode& root = tree_.nodes[region];
  const auto& leaves = tree_.leaves;
  const size_t first = best_.size();
  first_[region] = first;
  best_.push_back(Best{0, {}});
  window_.clear();
  size_t oldest = 0;
  for (int32_t leaf = root.leaf_begin; leaf < root.leaf_end; ++leaf) {
    const double before = best_.back().cost;
    // A tile that begins here, up to what depends on its end.
    const double price = before + prices_.tile(-leaves[leaf].row_begin, leaves[leaf].path.tokens - root.path.tokens -
                                                                            leaves[leaf + 1].fresh.tokens);
    while (window_.size() > oldest && window_.back().price >= price) window_.pop_back();
    window_.push_back(Begin{leaf, price});
    while (oldest < window_.size() && !fits(region, window_[oldest].leaf, leaf + 1)) ++oldest;

    Best best{before, Item{Item::kPieces, leaf, leaf + 1, leaves[leaf].node}};
    if (oldest < window_.size()) {
      best.cost = window_[oldest].price + prices_.per_tile() +
                  prices_.tile(leaves[leaf + 1].row_begin, leaves[leaf + 1].fresh.tokens);
      best.item = Item{Item::kTile, window_[oldest].leaf, leaf + 1, -1};
    } else {
      best.cost += prices_.paths(leaves[leaf + 1].row_begin - leaves[leaf].row_begin,
                                 leaves[leaf].path.tokens - root.path.tokens);
    }
    for (int32_t node = leaves[leaf].last_cut; node > region; node = tree_.nodes[node].next_cut) {
      const TreeNode& cut = tree_.nodes[node];
      const double cost = best_[first + cut.leaf_begin - root.leaf_begin].cost + cost_[node] +
                          prices_.band(cut.rows, cut.path.tokens - root.path.tokens);
      if (cost < best.cost) best = Best{cost, Item{Item::kCut, cut.leaf_begin, leaf + 1, node}};
    }
    best_.push_back(best);
  }
  cost_[region] = best_.back().cost;
}

}  // namespace tts::host
