#include "host/reads.h"

#include <algorithm>
#include <utility>

namespace tts::host {

PageReads::PageReads(const std::vector<Unit>& units, const std::vector<Run>& runs, const Ints& row_pos,
                     int32_t page_size) {
  // Pages that wait for their first key stand behind those that have one, the next to be filled first.
  std::vector<std::pair<int32_t, Read>> waiting;
  for (const Unit& unit : units) {
    const int32_t begin = static_cast<int32_t>(reads.size());
    waiting.clear();
    for (int32_t r = unit.run_begin; r < unit.run_end; ++r) {
      const Run& run = runs[r];
      const int32_t last = row_pos[run.row_end - 1];
      Read read{run.page_begin, run.base, run.row_begin, run.row_end};
      for (; read.base < run.base + run.length; ++read.page, read.base += page_size) {
        if (read.base <= last) reads.push_back(read);
        else waiting.emplace_back(read.base - last, read);
      }
    }
    std::stable_sort(waiting.begin(), waiting.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [wait, read] : waiting) reads.push_back(read);
    ranges.push_back(ReadRange{begin, begin});
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
