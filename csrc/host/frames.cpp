#include <algorithm>
#include <limits>
#include <numeric>

#include "host/forest.h"
#include "host/message.h"

namespace tts::host {

OutOfPages::OutOfPages(const std::string& op, int64_t wanted, int64_t free)
    : std::runtime_error(message(op, ": wanted ", wanted, " pages, ", free, " free")), wanted(wanted), free(free) {}

Frames::Frames(int64_t count) {
  if (count <= 0 || count > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument(message("Frames: count must be in [1, 2**31), got ", count));
  }
  count_ = static_cast<int32_t>(count);
  // Frames are taken from the back: fresh ones come as 0, 1, 2, ...
  free_.resize(count_);
  std::iota(free_.rbegin(), free_.rend(), 0);
}

int32_t Frames::take() {
  const int32_t frame = free_.back();
  free_.pop_back();
  peak_ = std::max(peak_, count_ - static_cast<int32_t>(free_.size()));
  return frame;
}

}  // namespace tts::host
