// Turns a partition of the tree into units and runs.
#pragma once

#include "host/partition.h"

namespace tts::host {

class Emitter {
 public:
  Emitter(const RowTree& tree, const Ints& row_pos, const UnitOptions& options, const SegmentTree& nodes,
          const Prices& prices, const Partition& partition)
      : tree_(tree), row_pos_(row_pos), options_(options), nodes_(nodes), prices_(prices), partition_(partition) {}

  UnitChoice emit();

 private:
  void emit_region(int32_t region);
  void tile(const Item& item, int32_t region);
  void read_apart(int32_t node, int32_t region);
  void pieces(int32_t row_begin, int32_t row_end, double tokens);
  void take_path(int32_t node, int32_t region);
  void add_unit(int32_t row_begin, int32_t row_end, const std::vector<Run>& runs);
  void add_run(const Run& run);
  bool is_read(const Run& run) const;
  const Run& run_of(int32_t node) const { return tree_.segments[node - 1].run; }

  const RowTree& tree_;
  const Ints& row_pos_;
  const UnitOptions& options_;
  const SegmentTree& nodes_;
  const Prices& prices_;
  const Partition& partition_;
  // runs from the region's root to a node
  std::vector<Run> path_runs_;
  std::vector<Run> piece_;
  // whether the last unit may take more runs
  bool open_ = false;
  UnitChoice choice_;
};

}  // namespace tts::host
