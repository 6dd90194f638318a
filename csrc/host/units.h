// The choice of work units, apart from the emission of plans so that either can change alone.
#pragma once

#include <cstdint>
#include <vector>

#include "host/forest.h"
#include "params.h"

namespace tts::host {

struct UnitOptions {
  int32_t page_size;
  // how many tokens a leaf may gain before the plan is made anew
  int32_t growth;
  int32_t tile_rows;
  int32_t split_tokens;
};

// A node's run and a contiguous range of rows that all see it. `own` is the run of the rows' own leaf.
struct Segment {
  Run run;
  bool own;
};

struct LeafRows {
  int32_t row_begin;
  // how many ancestors it has in common with the leaf before it: a low number is a good place to cut
  int32_t num_shared;
};

struct RowTree {
  // by row_begin, ancestors first, so that each row's runs ascend in path position
  std::vector<Segment> segments;
  std::vector<LeafRows> leaves;
};

// Every row reads each of its segments exactly once, in one unit or in several; a unit's rows all have a run in it.
struct UnitChoice {
  // part_begin is left at kNoParts
  std::vector<Unit> units;
  std::vector<Run> runs;
};

constexpr int32_t kNoParts = -1;

UnitChoice choose_units(const RowTree& tree, const Ints& row_pos, const UnitOptions& options);

}  // namespace tts::host
