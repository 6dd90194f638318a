// Which rows share a tile, and which ancestors are read inside the tiles below them: dynamic programming over the tree.
#pragma once

#include <vector>

#include "host/row_tree.h"

namespace tts::host {

// Leaves [begin, end): one tile for all; or a node whose path is read apart, by a band, and whose leaves are a region
// of their own; or a single leaf whose path is cut into pieces.
struct Item {
  enum Kind { kTile, kCut, kPieces } kind;
  int32_t begin, end;
  int32_t node;
};

// A region is what lies below a cut: its tiles read the paths of their rows from there on. Within it leaf after leaf:
//   best[i] = min over j of best[j] + tile of leaves j..i-1, whose tokens are those of j's path and, for each later
//             leaf, those that it does not share with the leaf before it,
//             and over the cut points that end at i of best[begin] + band + region of the cut point.
// The first is a minimum over a sliding window, as the price of a tile is linear in its tokens and rows.
class Partition {
 public:
  Partition(const SegmentTree& tree, const Prices& prices);

  // The items of a region, in order of leaves; region 0 is the whole tree, others are called by their cut point.
  std::vector<Item> items(int32_t region) const;

 private:
  struct Best {
    double cost;
    Item item;
  };

  void solve(int32_t region);
  // Whether leaves [begin, end) fit into a tile that need not read what is `above`.
  bool fits(const Amount& above, int32_t begin, int32_t end) const;

  const SegmentTree& tree_;
  const Prices& prices_;
  // by region: where its entries of best_ begin, and what it costs
  std::vector<size_t> first_;
  std::vector<double> cost_;
  std::vector<Best> best_;
  // candidates for the begin of a tile, ascending in leaf and in price
  struct Begin {
    int32_t leaf;
    double price;
  };
  std::vector<Begin> window_;
};

}  // namespace tts::host
