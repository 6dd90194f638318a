#include <cstring>

#include "cpu/dispatch.h"

namespace tts::TTS_ISA {

void copy_pages(const CopyPagesParams& p, const Parallel& pool) {
  for_each_task(pool, p.layers * p.copies, [&](int64_t task) {
    const int64_t layer = task / p.copies, copy = task % p.copies;
    const int64_t from = (layer * p.pages + p.src[copy]) * p.page_bytes;
    const int64_t to = (layer * p.pages + p.dst[copy]) * p.page_bytes;
    auto *k = static_cast<char*>(p.k_pages), *v = static_cast<char*>(p.v_pages);
    std::memcpy(k + to, k + from, p.page_bytes);
    std::memcpy(v + to, v + from, p.page_bytes);
  });
}

}  // namespace tts::TTS_ISA
