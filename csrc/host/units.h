// The choice of work units, apart from the emission of plans so that either can change alone.
#pragma once

#include <cstdint>

#include "host/cost.h"
#include "host/forest.h"
#include "params.h"

namespace tts::host {

struct UnitOptions {
  int32_t page_size;
  // how many tokens a leaf may gain before the plan is made anew
  int32_t growth;
  // most rows and most tokens of a unit; 0: as the cost model says
  int32_t tile_rows;
  int32_t split_tokens;
  // cut at the same path positions whatever a row's company
  bool invariant;
  // whether the kernel wants the runs page by page too
  bool page_reads;
};

// A node's run and a contiguous range of rows that all see it. `own` is the run of the rows' own leaf, which may be
// empty.
struct Segment {
  Run run;
  bool own;
};

struct RowTree {
  // by row_begin, ancestors first, so that each row's runs ascend in path position
  std::vector<Segment> segments;
};

// Every row reads each of its segments exactly once, in one unit or in several; a unit's rows all have a run in it.
struct UnitChoice {
  // part_begin is left at kNoParts
  std::vector<Unit> units;
  std::vector<Run> runs;
  // as the cost model has it: the call's time, and bytes requested by all units
  double ns = 0;
  double bytes = 0;
};

constexpr int32_t kNoParts = -1;

// End of the rows, from `begin` on, whose last sees all that any of them sees of the run: kernels load a run's keys up
// to the position of its last row. All rows of the run but for rows that lie before their leaf's own pages.
int32_t rows_led_by_last(const Run& run, int32_t begin, const Ints& row_pos);

UnitChoice choose_units(const RowTree& tree, const Ints& row_pos, const UnitOptions& options, const Costs& costs);

}  // namespace tts::host
