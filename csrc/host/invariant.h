// Units that give a row the same bits whatever its company.
#pragma once

#include <vector>

#include "host/units.h"

namespace tts::host {

// Every path is cut at multiples of the same number of tokens, and rows share a split only when all of it is common to
// them: which keys are summed up together, and in which order, depends on the row's own path alone.
class InvariantUnits {
 public:
  InvariantUnits(const UnitOptions& options, int32_t max_rows);

  int32_t split_tokens() const { return split_pages_ * page_size_; }
  // The leaf's path is `num_pages` long and shares its first num_shared splits with the leaf before it; the pages of
  // the others are entries page_begin and following of the plan's pages.
  void add_leaf(int32_t row_begin, int32_t row_end, int32_t num_shared, int32_t page_begin, int32_t num_pages);
  UnitChoice finish(const Ints& row_pos);

 private:
  void close(size_t num_shared);

  const int32_t page_size_;
  const int32_t growth_;
  const int32_t max_rows_;
  int32_t split_pages_;
  // split i of the last leaf's path, with the rows that share it so far
  std::vector<Run> open_;
  std::vector<Run> closed_;
};

}  // namespace tts::host
