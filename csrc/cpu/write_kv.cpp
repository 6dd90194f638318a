#include <cstring>

#include "cpu/dispatch.h"

namespace tts::TTS_ISA {
namespace {

void write_one(const WriteKvParams& p, int64_t row) {
  const int64_t page = p.slots[row] / p.page_size, offset = p.slots[row] % p.page_size, esize = p.element_size;
  const auto* k = static_cast<const char*>(p.k) + row * p.k_stride_row * esize;
  const auto* v = static_cast<const char*>(p.v) + row * p.v_stride_row * esize;
  for (int64_t head = 0; head < p.kv_heads; ++head) {
    const int64_t at = ((page * p.kv_heads + head) * p.page_size + offset) * p.head_dim * esize;
    std::memcpy(static_cast<char*>(p.k_pages) + at, k + head * p.k_stride_head * esize, p.head_dim * esize);
    std::memcpy(static_cast<char*>(p.v_pages) + at, v + head * p.v_stride_head * esize, p.head_dim * esize);
  }
}

}  // namespace

void write_kv(const WriteKvParams& p, const Parallel& pool) {
  const int64_t chunk = 16;
  for_each_task(pool, (p.rows + chunk - 1) / chunk, [&](int64_t task) {
    const int64_t end = (task + 1) * chunk < p.rows ? (task + 1) * chunk : p.rows;
    for (int64_t row = task * chunk; row < end; ++row) write_one(p, row);
  });
}

}  // namespace tts::TTS_ISA
