#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace tts::TTS_ISA {
namespace {

constexpr int64_t kRowsOfTask = 16;

// Calls body(rows, first element of the head, pages, where that goes) for keys and for values, head by head.
template <class Body>
void for_each_head(const WriteKvParams& p, int64_t row, const Body& body) {
  const int64_t page = p.slots[row] / p.page_size, offset = p.slots[row] % p.page_size;
  for (int64_t head = 0; head < p.kv_heads; ++head) {
    const int64_t at = ((page * p.kv_heads + head) * p.page_size + offset) * p.head_dim;
    body(p.k, row * p.k_stride_row + head * p.k_stride_head, p.k_pages, at);
    body(p.v, row * p.v_stride_row + head * p.v_stride_head, p.v_pages, at);
  }
}

// Rows go to pages far apart: all places are asked for before the first is written.
void write_rows(const WriteKvParams& p, int64_t begin, int64_t end) {
  const int64_t esize = p.element_size, bytes = p.head_dim * esize;
  for (int64_t row = begin; row < end; ++row) {
    for_each_head(p, row, [&](const void*, int64_t, void* pages, int64_t at) {
      const auto* to = static_cast<const char*>(pages) + at * esize;
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(to + i, 1, 3);
    });
  }
  for (int64_t row = begin; row < end; ++row) {
    for_each_head(p, row, [&](const void* rows, int64_t from, void* pages, int64_t at) {
      std::memcpy(static_cast<char*>(pages) + at * esize, static_cast<const char*>(rows) + from * esize, bytes);
    });
  }
}

constexpr float kLargestInt8 = 127.0f, kLargestFloat8 = 448.0f;

// Ties to even; |x| is at most the largest that the type has.
void encode(float x, Int8& to) { to.value = int8_t(std::nearbyint(x)); }
void encode(float x, Float8& to) {
  const float magnitude = std::fabs(x);
  uint32_t bits;
  if (magnitude < 0x1p-6f) {
    bits = uint32_t(std::nearbyint(magnitude * 0x1p9f));
  } else {
    const uint32_t u = bit_cast<uint32_t>(magnitude);
    bits = (u + 0x7ffff + (u >> 20 & 1)) >> 20;
    bits -= (127 - 7) << 3;
  }
  to.bits = uint8_t((std::signbit(x) ? 0x80u : 0u) | bits);
}

// Nearest multiple of the scale; a scale of 0 means that all of x is 0.
template <class Stored>
void quantise(float x, float scale, float largest, Stored& to) {
  encode(std::min(std::max(x / (scale == 0.0f ? 1.0f : scale), -largest), largest), to);
}

// Keys or values of one head in one page: rows [begin, end) of x, whose offsets ascend.
template <class T, class Stored>
void write_page(const WriteKvParams& p, const T* x, int64_t stride, int64_t begin, int64_t end, float largest,
                Stored* page, float& page_scale) {
  const int64_t first = p.slots[begin] % p.page_size;
  float most = 0.0f;
  for (int64_t row = begin; row < end; ++row)
    for (int64_t d = 0; d < p.head_dim; ++d) most = std::max(most, std::fabs(to_float(x[row * stride + d])));
  // A page that starts afresh has no scale yet.
  const float old = first > 0 ? page_scale : 0.0f, scale = std::max(old, most / largest);
  if (scale > old)
    for (int64_t i = 0; i < first * p.head_dim; ++i) quantise(to_float(page[i]) * old, scale, largest, page[i]);
  for (int64_t row = begin; row < end; ++row) {
    Stored* to = page + p.slots[row] % p.page_size * p.head_dim;
    for (int64_t d = 0; d < p.head_dim; ++d) quantise(to_float(x[row * stride + d]), scale, largest, to[d]);
  }
  page_scale = scale;
}

template <class T, class Stored>
void write_8_bit(const WriteKvParams& p, int64_t begin, int64_t end, float largest) {
  const int64_t page = p.slots[begin] / p.page_size;
  for (int64_t head = 0; head < p.kv_heads; ++head) {
    const int64_t slab = page * p.kv_heads + head, at = slab * p.page_size * p.head_dim;
    write_page(p, static_cast<const T*>(p.k) + head * p.k_stride_head, p.k_stride_row, begin, end, largest,
               static_cast<Stored*>(p.k_pages) + at, p.k_scales[slab]);
    write_page(p, static_cast<const T*>(p.v) + head * p.v_stride_head, p.v_stride_row, begin, end, largest,
               static_cast<Stored*>(p.v_pages) + at, p.v_scales[slab]);
  }
}

// The first row of a page writes all rows of that page.
void write_page_of(const WriteKvParams& p, int64_t row) {
  const auto page = [&](int64_t r) { return p.slots[r] / p.page_size; };
  if (row > 0 && page(row - 1) == page(row)) return;
  int64_t end = row + 1;
  while (end < p.rows && page(end) == page(row)) ++end;
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    if (p.stored == Stored::kInt8) write_8_bit<T, Int8>(p, row, end, kLargestInt8);
    else write_8_bit<T, Float8>(p, row, end, kLargestFloat8);
  });
}

}  // namespace

void write_kv(const WriteKvParams& p, const Parallel& pool) {
  for_each_task(pool, (p.rows + kRowsOfTask - 1) / kRowsOfTask, [&](int64_t task) {
    const int64_t begin = task * kRowsOfTask, end = std::min(begin + kRowsOfTask, p.rows);
    if (p.stored == Stored::kSame) return write_rows(p, begin, end);
    for (int64_t row = begin; row < end; ++row) write_page_of(p, row);
  });
}

}  // namespace tts::TTS_ISA
