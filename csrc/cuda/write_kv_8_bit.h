// 8-bit pages: one scale per page and head, which grows with the largest magnitude that the page holds.
#pragma once
#include "cuda/eight_bits.h"
#include "cuda/reduce.h"
#include "cuda/vectors.h"

namespace tts::cuda {

constexpr int kWrite8Threads = 128;

// Keys or values of one head: new rows and the pages they go to.
struct Rows8 {
  const void* rows;
  uint8_t* pages;
  float* scales;
  int64_t stride_row, stride_head;
};

// Nearest multiple of the scale; a scale of 0 means that all of x is 0.
template <class Codec>
__device__ __forceinline__ uint8_t quantise(float x, float scale) {
  const float q = __fdiv_rn(x, scale == 0.0f ? 1.0f : scale);
  return Codec::encode(fminf(fmaxf(q, -Codec::kLargest), Codec::kLargest));
}

// Calls body(offset in the page, first dimension, vector) for this thread's part of the rows that are adjacent to
// `leader` and in the same page.
template <class T, class Body>
__device__ __forceinline__ void for_rows_of_page(const WriteKvParams& p, const T* rows, int64_t stride_row,
                                                 bool aligned, int64_t leader, Body body) {
  const int page_size = int(p.page_size), page = p.slots[leader] / page_size;
  const int vectors = int((p.head_dim + kWidth<T> - 1) / kWidth<T>);
  const int most = int(min(p.rows - leader, p.page_size)) * vectors;
  for (int i = int(threadIdx.x); i < most; i += kWrite8Threads) {
    const int64_t row = leader + i / vectors, d = i % vectors * kWidth<T>;
    const int slot = p.slots[row];
    if (slot / page_size != page) break;
    float x[kWidth<T>];
    load_vector(rows + row * stride_row, d, p.head_dim, aligned, 0.0f, x);
    body(slot % page_size, d, x);
  }
}

// Stores a vector of a token at once where the token's address allows.
template <class T, class Codec>
__device__ __forceinline__ void write_token(uint8_t* token, int64_t d, int64_t head_dim, bool aligned, float scale,
                                            const float (&x)[kWidth<T>]) {
  struct alignas(kWidth<T>) Packed {
    uint8_t items[kWidth<T>];
  } packed;
  for (int i = 0; i < kWidth<T>; ++i) packed.items[i] = quantise<Codec>(x[i], scale);
  if (aligned) {
    *reinterpret_cast<Packed*>(token + d) = packed;
    return;
  }
  for (int i = 0; i < kWidth<T>; ++i) {
    if (d + i < head_dim) token[d + i] = packed.items[i];
  }
}

// Called by a whole block; the first row of each page writes all rows of that page.
template <class T, class Codec>
__device__ __forceinline__ void write_page(const WriteKvParams& p, const Rows8& to, float* scratch) {
  const int64_t leader = blockIdx.x, slot = p.slots[leader], page = slot / p.page_size, first = slot % p.page_size;
  if (leader > 0 && p.slots[leader - 1] / p.page_size == page) return;
  const int64_t slab = page * p.kv_heads + blockIdx.y;
  const T* rows = static_cast<const T*>(to.rows) + int64_t(blockIdx.y) * to.stride_head;
  const bool aligned = is_aligned(to.rows, (to.stride_row | to.stride_head | p.head_dim) * int64_t(sizeof(T)));
  const bool aligned_tokens = is_aligned(to.pages, p.head_dim * 16 / kWidth<T>);
  uint8_t* tokens = to.pages + slab * p.page_size * p.head_dim;

  // A page that starts afresh has no scale yet.
  const float old = first > 0 ? to.scales[slab] : 0.0f;
  float largest = 0.0f;
  for_rows_of_page(p, rows, to.stride_row, aligned, leader, [&](int64_t, int64_t, const float(&x)[kWidth<T>]) {
    for (int i = 0; i < kWidth<T>; ++i) largest = fmaxf(largest, fabsf(x[i]));
  });
  // All threads have read the old scale when this returns.
  largest = block_reduce(largest, Max{}, scratch);
  const float scale = fmaxf(old, __fdiv_rn(largest, Codec::kLargest));
  if (scale > old) {
    for (int64_t i = threadIdx.x; i < first * p.head_dim; i += kWrite8Threads)
      tokens[i] = quantise<Codec>(Codec::decode(tokens[i]) * old, scale);
  }
  for_rows_of_page(p, rows, to.stride_row, aligned, leader, [&](int64_t offset, int64_t d, const float(&x)[kWidth<T>]) {
    write_token<T, Codec>(tokens + offset * p.head_dim, d, p.head_dim, aligned_tokens, scale, x);
  });
  if (threadIdx.x == 0) to.scales[slab] = scale;
}

// Row blockIdx.x, head blockIdx.y, keys or values by blockIdx.z.
template <class T, class Codec>
__global__ void __launch_bounds__(kWrite8Threads, 1) write_kv_8_bit_kernel(const __grid_constant__ WriteKvParams p) {
  TTS_SHARED_MEMORY(memory);
  auto* scratch = reinterpret_cast<float*>(memory);
  // Two calls, so that the compiler sees that each pointer is one of the kernel's arguments: global memory.
  if (blockIdx.z == 0) {
    write_page<T, Codec>(p, {p.k, static_cast<uint8_t*>(p.k_pages), p.k_scales, p.k_stride_row, p.k_stride_head},
                         scratch);
  } else {
    write_page<T, Codec>(p, {p.v, static_cast<uint8_t*>(p.v_pages), p.v_scales, p.v_stride_row, p.v_stride_head},
                         scratch);
  }
}

}  // namespace tts::cuda
