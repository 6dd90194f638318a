// A plan's runs page by page, for kernels that fill one tile of keys with pages of several runs.
#pragma once

#include <vector>

#include "host/forest.h"
#include "params.h"

namespace tts::host {

struct Read {
  // entry of Plan::pages, and the path position of its first key
  int32_t page, base;
  int32_t row_begin, row_end;
};

// Entries [begin, end) of the reads: those of a unit that hold a key by now.
struct ReadRange {
  int32_t begin, end;
};

class PageReads {
 public:
  PageReads(const std::vector<Unit>& units, const std::vector<Run>& runs, const Ints& row_pos, int32_t page_size);

  // Rows have moved on: pages behind the ends may hold keys now.
  void update(const Ints& row_pos);

  std::vector<Read> reads;
  std::vector<ReadRange> ranges;

 private:
  bool holds_key(const Read& read, const Ints& row_pos) const { return read.base <= row_pos[read.row_end - 1]; }

  // Pages of a run that no row has reached yet: the first of them, how many there are, and after how many tokens.
  struct Waiting {
    int32_t tokens, pages;
    Read read;
  };
  void add_waiting(int32_t page_size);

  // where each unit's reads end, keys or not
  Ints ends_;
  std::vector<Waiting> waiting_;
};

}  // namespace tts::host
