// Matrix products whose inner loops stay in registers.
#pragma once
#include "cpu/kv_tile.h"

namespace tts::TTS_ISA {

// c[m][n] = keep[m] * c[m][n] + sum_k a[m][k] * b[k][n]; without keep the old c is not read.
struct Product {
  const float* a;
  int64_t lda, depth;
  const float* keep;
  float* c;
  int64_t ldc;
};

// The rows of b: packed, or tokens where they are.
struct PackedRows {
  const float* b;
  int64_t stride;
  const float* operator[](int64_t k) const { return b + k * stride; }
};

// Accumulators of one block are kBlockRows x kBlockVecs vectors: 24 of 32 registers, or 12 of 16.
constexpr int kBlockRows = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kBlockVecs = 4;
#else
constexpr int kBlockVecs = 2;
#endif

// So many products are summed before they are added to the sums of the earlier ones: short sums round less.
constexpr int64_t kShortSum = 32;

// Every element of c adds its products in the order of k, whatever the block it falls into: rows do not depend on how
// many others there are.
template <int kRows, int kVecs, class B>
static void multiply_block(const Product& p, B b, int64_t row, int64_t col) {
  const float* a = p.a + row * p.lda;
  float* c = p.c + row * p.ldc + col;
  for (int64_t k = 0; k < p.depth;) {
    const bool first = k == 0, fresh = first && !p.keep;
    const int64_t end = p.depth - k < kShortSum ? p.depth : k + kShortSum;
    Vec sum[kRows][kVecs] = {};
#pragma GCC unroll 1
    for (; k < end; ++k) {
      Vec right[kVecs];
      const auto* from = b[k] + col;
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) right[v] = load(from + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec left = a[r * p.lda + k];
#pragma GCC unroll 8
        for (int v = 0; v < kVecs; ++v) sum[r][v] += left * right[v];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec keep = first && p.keep ? p.keep[row + r] : 1.0f;
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        float* to = c + r * p.ldc + v * kLanes;
        store(to, fresh ? sum[r][v] : keep * load(to) + sum[r][v]);
      }
    }
  }
}

template <class B>
struct ProductBlocks {
  void (*at[kBlockRows][kBlockVecs])(const Product&, B, int64_t row, int64_t col) = {};

  template <int... kIndex>
  constexpr explicit ProductBlocks(std::integer_sequence<int, kIndex...>) {
    ((at[kIndex / kBlockVecs][kIndex % kBlockVecs] =
          multiply_block<kIndex / kBlockVecs + 1, kIndex % kBlockVecs + 1, B>),
     ...);
  }
};

// The product for `rows` rows and `vecs` vectors of columns, in blocks as even as they can be.
template <class B>
static void multiply(const Product& p, B b, int64_t rows, int64_t vecs) {
  static constexpr ProductBlocks<B> blocks(std::make_integer_sequence<int, kBlockRows * kBlockVecs>{});
  const int64_t row_blocks = (rows + kBlockRows - 1) / kBlockRows, col_blocks = (vecs + kBlockVecs - 1) / kBlockVecs;
  for (int64_t j = 0; j < col_blocks; ++j) {
    const int64_t col = j * vecs / col_blocks, cols = (j + 1) * vecs / col_blocks - col;
    for (int64_t i = 0; i < row_blocks; ++i) {
      const int64_t row = i * rows / row_blocks, height = (i + 1) * rows / row_blocks - row;
      blocks.at[height - 1][cols - 1](p, b, row, col * kLanes);
    }
  }
}

// c[m][n] = sum_k a[m][k] * token n[k] for few rows and one vector of tokens, the same bits as through packed tokens.
template <int kRows, class T>
static void multiply_tokens(const Product& p, const T* const* tokens) {
  Vec total[kRows];
  for (int64_t k = 0; k < p.depth;) {
    const bool first = k == 0;
    const int64_t end = p.depth - k < kShortSum ? p.depth : k + kShortSum;
    Vec sum[kRows] = {};
    for (; k < end; k += kLanes) {
      Vec columns[kLanes];
      load_columns(tokens, k, columns);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sum[r] += p.a[r * p.lda + k + i] * columns[i];
    }
    for (int r = 0; r < kRows; ++r) total[r] = first ? sum[r] : total[r] + sum[r];
  }
  for (int r = 0; r < kRows; ++r) store(p.c + r * p.ldc, total[r]);
}

template <class T, int... kIndex>
static void multiply_tokens(const Product& p, const T* const* tokens, int64_t rows,
                            std::integer_sequence<int, kIndex...>) {
  (void)((rows == kIndex + 1 && (multiply_tokens<kIndex + 1>(p, tokens), true)) || ...);
}

}  // namespace tts::TTS_ISA
