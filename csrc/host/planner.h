// Who reads which pages in one model call: frozen int32 arrays for the kernels, valid until the next fork or release.
#pragma once

#include <optional>
#include <vector>

#include "host/forest.h"
#include "host/reads.h"
#include "host/units.h"
#include "params.h"

namespace tts::host {

struct PlannedLeaf {
  // stays valid while the forest's version does
  const Node* node;
  // where the caller named it, for messages
  int32_t argument;
  int32_t row_begin;
  int32_t num_rows;
  int32_t max_end;
  // its own run in Plan::pages; the first num_filled entries are known
  int32_t page_begin;
  int32_t num_pages;
  int32_t num_filled;
};

class Plan {
 public:
  // Leaf i contributes a row for each of its last counts[i] tokens. Any order of leaves is correct, depth-first shares.
  Plan(Forest& forest, const Ints& leaves, const Ints& counts, const UnitOptions& options, const Costs& costs);

  // After appends to the same leaves: moves row_pos, fills in new pages. Returns whether pages changed.
  bool update(const Forest& forest);

  std::vector<Unit> units;
  std::vector<Run> runs;
  Ints pages;
  Ints row_pos;
  Ints join_ptr;
  Ints join_slots;
  int32_t num_slots = 0;
  int32_t page_size;
  // time and requested bytes of the call as the cost model has them
  double ns = 0;
  double bytes = 0;
  std::optional<PageReads> page_reads;
  // The tree that was planned for: every node's run with all the rows that see it. page_begin tells nodes apart.
  std::vector<Run> segments;

 private:
  void lay_out_joins();
  void write_row_pos(const PlannedLeaf& leaf);

  const Forest* forest_;
  int64_t version_;
  std::vector<PlannedLeaf> leaves_;
};

}  // namespace tts::host
