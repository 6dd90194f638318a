#include "host/reads.h"

#include <algorithm>

namespace tts::host {

PageReads::PageReads(const std::vector<Unit>& units, const std::vector<Run>& runs, const Ints& row_pos,
                     int32_t page_size) {
  size_t count = 0;
  for (const Run& run : runs) count += run.length / page_size;
  reads.reserve(count);
  for (const Unit& unit : units) {
    const int32_t begin = static_cast<int32_t>(reads.size());
    waiting_.clear();
    for (int32_t r = unit.run_begin; r < unit.run_end; ++r) {
      const Run& run = runs[r];
      const int32_t last = row_pos[run.row_end - 1];
      Read read{run.page_begin, run.base, run.row_begin, run.row_end};
      const int32_t end = run.base + run.length;
      for (; read.base < end && read.base <= last; ++read.page, read.base += page_size) reads.push_back(read);
      if (read.base < end) waiting_.push_back(Waiting{read.base - last, (end - read.base) / page_size, read});
    }
    add_waiting(page_size);
    ranges.push_back(ReadRange{begin, begin});
    ends_.push_back(static_cast<int32_t>(reads.size()));
  }
  update(row_pos);
}

// Pages that wait for their first key stand behind those that have one: the first of every leaf, then the second, ...
// When leaves grow together, those that hold a key come first.
void PageReads::add_waiting(int32_t page_size) {
  std::sort(waiting_.begin(), waiting_.end(), [](const Waiting& a, const Waiting& b) { return a.tokens < b.tokens; });
  for (bool more = true; more;) {
    more = false;
    for (Waiting& next : waiting_) {
      if (next.pages == 0) continue;
      reads.push_back(next.read);
      ++next.read.page, next.read.base += page_size;
      more |= --next.pages > 0;
    }
  }
}

void PageReads::update(const Ints& row_pos) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    int32_t end = ends_[i];
    while (end > ranges[i].end && !holds_key(reads[end - 1], row_pos)) --end;
    ranges[i].end = end;
  }
}

}  // namespace tts::host
