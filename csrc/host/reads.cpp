#include "host/reads.h"

#include <algorithm>

namespace tts::host {

PageReads::PageReads(const std::vector<Unit>& units, const std::vector<Run>& runs, const Ints& row_pos,
                     int32_t page_size) {
  for (const Unit& unit : units) {
    const size_t begin = reads.size();
    for (int32_t r = unit.run_begin; r < unit.run_end; ++r) {
      const Run& run = runs[r];
      for (int32_t i = 0; i * page_size < run.length; ++i) {
        reads.push_back(Read{run.page_begin + i, run.base + i * page_size, run.row_begin, run.row_end});
      }
    }
    // Pages that wait for their first key stand behind those that have one, the next to be filled first.
    const auto wait = [&](const Read& read) { return std::max(0, read.base - row_pos[read.row_end - 1]); };
    std::stable_sort(reads.begin() + begin, reads.end(),
                     [&](const Read& a, const Read& b) { return wait(a) < wait(b); });
    ranges.push_back(ReadRange{static_cast<int32_t>(begin), static_cast<int32_t>(begin)});
    ends_.push_back(static_cast<int32_t>(reads.size()));
  }
  update(row_pos);
}

void PageReads::update(const Ints& row_pos) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    int32_t end = ends_[i];
    while (end > ranges[i].end && !holds_key(reads[end - 1], row_pos)) --end;
    ranges[i].end = end;
  }
}

}  // namespace tts::host
