// The tree of segments as the planner walks it, and what units of it cost.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "host/units.h"

namespace tts::host {

// Tokens, and the matrix rows that are computed for them: tokens x padded rows.
struct Amount {
  double tokens = 0, work = 0;
};

struct TreeNode {
  int32_t parent = 0;
  int32_t rows = 0;
  // the leaves below it
  int32_t leaf_begin = 0, leaf_end = 0;
  // of the node and all its ancestors
  Amount path;
  // Whether the path may be cut behind the node, and at how many of its ancestors. Few are enough, and keep paths of
  // thousands of nodes cheap: a node is one when clearly fewer rows see it than the last, or many tokens lie between.
  bool cut_point = false;
  int32_t cuts_above = 0;
  // the cut point above it with the same last leaf, or -1
  int32_t next_cut = -1;
};

struct TreeLeaf {
  int32_t node = -1;
  // the lowest cut point of which it is the last leaf, or -1
  int32_t last_cut = -1;
};

// nodes[0] is an empty root over all trees, nodes[i] segment i - 1, in preorder.
struct SegmentTree {
  SegmentTree(const RowTree& tree, const Ints& row_pos, int32_t growth, const Costs& costs);

  int32_t num_leaves() const { return static_cast<int32_t>(leaves.size()); }
  // What leaves [begin, end) see together, each token once.
  Amount together(int32_t begin, int32_t end) const {
    return {before[end].tokens - open[begin].tokens, before[end].work - open[begin].work};
  }

  std::vector<TreeNode> nodes;
  std::vector<TreeLeaf> leaves;
  // with one more entry, the end: first row of each leaf, and what the leaves before it see together
  std::vector<int32_t> row_begin;
  std::vector<Amount> before;
  // before[leaf + 1] less the leaf's own path
  std::vector<Amount> open;
  double tokens = 0;

 private:
  void find_ends(const RowTree& tree);
};

// Tokens of a run that its rows see, on average over the plan's life.
double seen_tokens(const Run& run, const Ints& row_pos, int32_t growth);

// Longest unit that a candidate plan may have.
struct Limit {
  double ns;
  int32_t rows;
  int32_t tokens;
};

constexpr double kForever = std::numeric_limits<double>::infinity();

// What the planner minimises under a limit: bytes, as time. Arithmetic is in the limit only: how rows are cut into
// tiles hardly changes it.
class Prices {
 public:
  Prices(const Costs& costs, const Limit& limit, int32_t page_size)
      : costs_(costs), limit_(limit), page_size_(page_size) {}

  bool fits(int32_t rows, double tokens, double work) const {
    if (rows > limit_.rows || tokens > limit_.tokens) return false;
    return limit_.ns == kForever || costs_.unit(rows, tokens, work) <= limit_.ns;
  }
  // Only a limit makes a cut worth its partial results: a band has as many tiles as the rows below it.
  bool may_cut() const { return limit_.ns < kForever || limit_.tokens < std::numeric_limits<int32_t>::max(); }
  // Linear in rows and tokens; per_tile() comes on top.
  double tile(int32_t rows, double tokens) const { return costs_.bytes(rows, tokens) * costs_.ns_per_byte; }
  double per_tile() const { return 0.01 * costs_.unit_ns; }
  int32_t num_tiles(int32_t rows) const { return (rows + limit_.rows - 1) / limit_.rows; }
  // How many even pieces of a path of `tokens` are short enough, for a tile of `rows`.
  int32_t num_pieces(int32_t rows, double tokens) const {
    const double padded = costs_.padded(rows);
    if (tokens <= page_size_ || fits(rows, tokens, tokens * padded)) return 1;
    double most = limit_.tokens;
    if (limit_.ns < kForever) {
      const double fixed = costs_.unit(rows, 0, 0);
      const double per_token = (costs_.unit(rows, 4096, 4096 * padded) - fixed) / 4096;
      most = std::min(most, (limit_.ns - fixed) / per_token);
    }
    most = std::max(1.0, std::floor(most / page_size_)) * page_size_;
    return std::max(1, static_cast<int32_t>(std::ceil(tokens / most)));
  }
  // All rows of one leaf: in causal order, their tiles see more and more of it.
  double paths(int32_t rows, double tokens) const {
    const int32_t tiles = num_tiles(rows);
    double price = 0;
    for (int32_t i = 0; i < tiles; ++i) {
      price += pieces((rows + tiles - 1) / tiles, std::max(0.0, tokens - static_cast<double>(rows) * i / tiles));
    }
    return price;
  }
  // A path that `rows` below it read apart from their own tiles.
  double band(int32_t rows, double tokens) const {
    const int32_t tiles = num_tiles(rows);
    return tiles * pieces((rows + tiles - 1) / tiles, tokens) + costs_.join(rows);
  }

 private:
  double pieces(int32_t rows, double tokens) const {
    const int32_t count = num_pieces(rows, tokens);
    return count * (tile(rows, tokens / count) + per_tile()) + (count - 1) * costs_.join(rows);
  }

  const Costs& costs_;
  const Limit limit_;
  const int32_t page_size_;
};

}  // namespace tts::host
