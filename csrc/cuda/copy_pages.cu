#include <algorithm>

#include "cuda/launch.h"
#include "cuda/words.h"

namespace tts::cuda {

// A thread has this many words of keys and of values on their way at a time. Small blocks: a single page of all layers
// then makes enough of them to fill a device.
constexpr int kCopyThreads = 128, kCopyWords = 2, kCopyChunk = kCopyThreads * kCopyWords;
constexpr int64_t kMaxGridY = 65535;

// Copy blockIdx.x in layer blockIdx.z, keys and values; the blocks of blockIdx.y share the page.
template <class Word>
__global__ void __launch_bounds__(kCopyThreads) copy_pages_kernel(const __grid_constant__ CopyPagesParams p) {
  const int64_t words = p.page_bytes / int64_t(sizeof(Word)), first_page = int64_t(blockIdx.z) * p.pages;
  const int64_t from = (first_page + p.src[blockIdx.x]) * words, to = (first_page + p.dst[blockIdx.x]) * words;
  auto *k = static_cast<Word*>(p.k_pages), *v = static_cast<Word*>(p.v_pages);
  const int64_t stride = int64_t(gridDim.y) * kCopyChunk;
  for (int64_t word = int64_t(blockIdx.y) * kCopyChunk + threadIdx.x; word < words; word += stride) {
    Word keys[kCopyWords], values[kCopyWords];
    for (int i = 0; i < kCopyWords; ++i) {
      const int64_t at = word + i * kCopyThreads;
      if (at < words) keys[i] = k[from + at], values[i] = v[from + at];
    }
    for (int i = 0; i < kCopyWords; ++i) {
      const int64_t at = word + i * kCopyThreads;
      if (at < words) k[to + at] = keys[i], v[to + at] = values[i];
    }
  }
}

int copy_pages(const CopyPagesParams& p, Stream stream) {
  if (p.copies == 0 || p.layers == 0 || p.page_bytes == 0) return 0;
  const uint64_t bits = address_bits(p.k_pages) | address_bits(p.v_pages) | uint64_t(p.page_bytes);
  return with_word(bits, [&](auto word) {
    const int64_t words = p.page_bytes / int64_t(sizeof word), chunks = (words + kCopyChunk - 1) / kCopyChunk;
    const Grid grid{unsigned(p.copies), unsigned(std::min(chunks, kMaxGridY)), unsigned(p.layers)};
    return launch(copy_pages_kernel<decltype(word)>, grid, kCopyThreads, 0, stream, p);
  });
}

}  // namespace tts::cuda
