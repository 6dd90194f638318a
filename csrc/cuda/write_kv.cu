#include "cuda/launch.h"
#include "cuda/words.h"
#include "cuda/write_kv_8_bit.h"

namespace tts::cuda {

constexpr int kWriteThreads = 128;

// Row blockIdx.x, all its heads, keys and values.
template <class Word>
__global__ void __launch_bounds__(kWriteThreads) write_kv_kernel(const __grid_constant__ WriteKvParams p) {
  const int64_t row = blockIdx.x, slot = p.slots[row], page = slot / p.page_size, offset = slot % p.page_size;
  // Strides are in elements, of which a word may hold several.
  const int64_t in_words = p.element_size, bytes = sizeof(Word);
  const auto* k = static_cast<const Word*>(p.k) + row * p.k_stride_row * in_words / bytes;
  const auto* v = static_cast<const Word*>(p.v) + row * p.v_stride_row * in_words / bytes;
  auto *k_pages = static_cast<Word*>(p.k_pages), *v_pages = static_cast<Word*>(p.v_pages);
  const int words = int(p.head_dim * in_words / bytes), all = int(p.kv_heads) * words;
  const int64_t k_stride = p.k_stride_head * in_words / bytes, v_stride = p.v_stride_head * in_words / bytes;
  for (int i = int(threadIdx.x); i < all; i += kWriteThreads) {
    const int head = i / words, word = i % words;
    const int64_t to = ((page * p.kv_heads + head) * p.page_size + offset) * words + word;
    const Word key = k[head * k_stride + word], value = v[head * v_stride + word];
    k_pages[to] = key;
    v_pages[to] = value;
  }
}

static int write_plain(const WriteKvParams& p, Stream stream) {
  const int64_t elements = p.k_stride_row | p.k_stride_head | p.v_stride_row | p.v_stride_head | p.head_dim;
  const uint64_t bits = address_bits(p.k) | address_bits(p.v) | address_bits(p.k_pages) | address_bits(p.v_pages) |
                        uint64_t(elements * p.element_size);
  return with_word(bits, [&](auto word) {
    return launch(write_kv_kernel<decltype(word)>, {unsigned(p.rows)}, kWriteThreads, 0, stream, p);
  });
}

template <class Codec>
static int write_8_bit(const WriteKvParams& p, Stream stream) {
  return with_dtype(p.dtype, [&](auto type) {
    const Grid grid{unsigned(p.rows), unsigned(p.kv_heads), 2};
    const size_t shared = kWrite8Threads / kWarp * sizeof(float);
    return launch(write_kv_8_bit_kernel<decltype(type), Codec>, grid, kWrite8Threads, shared, stream, p);
  });
}

int write_kv(const WriteKvParams& p, Stream stream) {
  if (p.rows == 0 || p.kv_heads == 0 || p.head_dim == 0) return 0;
  if (p.stored == Stored::kInt8) return write_8_bit<Int8>(p, stream);
  if (p.stored == Stored::kFloat8) return write_8_bit<Float8>(p, stream);
  return write_plain(p, stream);
}

}  // namespace tts::cuda
