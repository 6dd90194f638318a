// Products of rows with a panel of columns, whose inner loops stay in registers. The vectors run along the columns, so
// rows are read as they lie in memory: tokens in a tile of keys or rows of a weight matrix.
#pragma once
#include <type_traits>

#include "cpu/vector_math.h"
#if defined(__AMX_BF16__)
#include "cpu/amx.h"
#endif

namespace tts::TTS_ISA {

// Two bfloat16 that are multiplied and added as one, the first in the low half.
struct [[gnu::may_alias]] Pair {
  uint32_t bits;
};

#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

// c[i][j] = sum_k a(i, k) * b[k][j], or that added to c. a(i, k) is a[i * lda + k]; with kAcross a[k * lda + i].
// depth counts elements: floats, or pairs.
template <class Element>
struct Panel {
  const Element* a;
  int64_t lda;
  const Element* b;
  int64_t ldb, depth;
  float* c;
  int64_t ldc;
  // From a to what will be multiplied next: asked for from memory on the way. 0: nothing.
  int64_t ahead = 0;
};

inline Vec load_vector(const float* p) { return load(p); }
inline void multiply_add(Vec& sum, float left, Vec right) { sum += left * right; }
#if defined(__AVX512BF16__)
inline __m512bh load_vector(const Pair* p) { return bit_cast<__m512bh>(_mm512_loadu_si512(p)); }
inline void multiply_add(Vec& sum, Pair left, __m512bh right) {
  const __m512bh both = bit_cast<__m512bh>(_mm512_set1_epi32(int(left.bits)));
  sum = bit_cast<Vec>(_mm512_dpbf16_ps(bit_cast<__m512>(sum), both, right));
}
#endif

// The most rows of a block of `vecs` vectors of columns: its sums take 24 of 32 registers, or 12 of 16.
constexpr int kBlockVecs = 3;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kBlockRows = 12;
#else
constexpr int kBlockRows = 6;
#endif
constexpr int block_rows(int64_t vecs) { return vecs < kBlockVecs ? kBlockRows : kBlockRows * 2 / 3; }

template <int kRows, class Element>
inline void prefetch_rows(const Element* a, int64_t lda, int64_t count) {
  for (int64_t k = 0; k < count; k += 64 / int64_t(sizeof(Element)))
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) __builtin_prefetch(a + r * lda + k, 0, 2);
}

// So many products are summed before they are added to the sums of the earlier ones: short sums round less.
constexpr int64_t kShortSum = 32;

// Every element of c adds its products in the order of k, whatever the block it falls into: columns do not depend on
// how many others there are.
template <int kRows, int kVecs, bool kAcross, class Element>
static void multiply_block(const Panel<Element>& p, int64_t row, int64_t col, bool add) {
  const Element *a = p.a + (kAcross ? row : row * p.lda), *b = p.b + col;
  float* c = p.c + row * p.ldc + col;
  for (int64_t k = 0; k < p.depth; add = true) {
    const int64_t end = p.depth - k < kShortSum ? p.depth : k + kShortSum;
    if (!kAcross && p.ahead && col == 0) prefetch_rows<kRows>(a + p.ahead + k, p.lda, end - k);
    Vec sum[kRows][kVecs] = {};
#pragma GCC unroll 1
    for (; k < end; ++k) {
      decltype(load_vector(b)) right[kVecs];
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) right[v] = load_vector(b + k * p.ldb + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Element left = kAcross ? a[k * p.lda + r] : a[r * p.lda + k];
#pragma GCC unroll 8
        for (int v = 0; v < kVecs; ++v) multiply_add(sum[r][v], left, right[v]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        float* to = c + r * p.ldc + v * kLanes;
        store(to, add ? load(to) + sum[r][v] : sum[r][v]);
      }
    }
  }
}

template <bool kAcross, class Element>
struct PanelBlocks {
  void (*at[kBlockRows][kBlockVecs])(const Panel<Element>&, int64_t row, int64_t col, bool add) = {};

  template <int... kIndex>
  constexpr explicit PanelBlocks(std::integer_sequence<int, kIndex...>) {
    (set<kIndex / kBlockVecs + 1, kIndex % kBlockVecs + 1>(), ...);
  }
  template <int kRows, int kVecs>
  constexpr void set() {
    if constexpr (kRows <= block_rows(kVecs)) at[kRows - 1][kVecs - 1] = multiply_block<kRows, kVecs, kAcross, Element>;
  }
};

struct Nothing {
  void operator()() const {}
};

// The product for `rows` rows and `vecs` vectors of columns, in blocks as even as they can be. between() is called once
// for each block.
template <bool kAcross, class Element, class Between = Nothing>
static void multiply(const Panel<Element>& p, int64_t rows, int64_t vecs, bool add, const Between& between = {}) {
#if defined(__AMX_BF16__)
  if constexpr (std::is_same_v<Element, Pair>) {
    // In tiles of 16 x 16 x 16 pairs: rows and depth must be multiples of 16, and a Tiles object alive.
    const amx::Operands operands{p.a, p.lda * 4, p.b, p.ldb * 4, p.depth, p.c, p.ldc * 4, p.ahead * 4};
    return amx::multiply(operands, rows, vecs * kLanes, add, between);
  }
#endif
  static constexpr PanelBlocks<kAcross, Element> blocks(std::make_integer_sequence<int, kBlockRows * kBlockVecs>{});
  for (int64_t col = 0, cols; col < vecs; col += cols) {
    cols = vecs - col < kBlockVecs ? vecs - col : vecs - col == kBlockVecs + 1 ? 2 : kBlockVecs;
    const int64_t row_blocks = (rows + block_rows(cols) - 1) / block_rows(cols);
    for (int64_t i = 0; i < row_blocks; ++i) {
      const int64_t row = i * rows / row_blocks, height = (i + 1) * rows / row_blocks - row;
      blocks.at[height - 1][cols - 1](p, row, col * kLanes, add);
      between();
    }
  }
}

// What must be alive while panels of this element are multiplied: nothing for most.
template <class Element>
struct MatrixUnit {
  MatrixUnit() {}
};
#if defined(__AMX_BF16__)
template <>
struct MatrixUnit<Pair> : amx::Tiles {};
#endif

// Rows of a, and its depth in pairs, come in multiples of these: the matrix unit reads whole tiles.
constexpr int64_t kPanelRows = 16, kPanelPairs = 16;

// A block of kLanes rows of 32 bits each becomes columns: to[k * stride + i] = from(i)[k] for k < kLanes.
template <class Element, class From>
inline void transpose_block(const From& from, Element* to, int64_t stride) {
  Vec block[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) block[i] = from(i);
  transpose<kLanes / 2>(block);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) store(reinterpret_cast<float*>(to) + i * stride, block[i]);
}

}  // namespace tts::TTS_ISA
