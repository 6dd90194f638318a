// The arithmetic of a tile of rows: scores, running soft-max and weighted values in the registers of warps.
#pragma once
#include <type_traits>

#include "cuda/tree_attention_plain.h"

namespace tts::cuda {

// How the warps of a block share the matrix rows and the keys of a tile. Each has 16 * tiles rows; warps_keys of them
// have the same rows and different keys. Warps that are left over only copy.
template <int warps_rows, int tiles, int warps_keys>
struct WarpSplit {
  static constexpr int kWarpsRows = warps_rows, kTiles = tiles, kWarpsKeys = warps_keys;
  static constexpr int kRows = warps_rows * tiles * 16, kWarps = warps_rows * warps_keys;
  // From a row of a thread's tile to the same of its next tile.
  static constexpr int kStep = 16;

  static __device__ __forceinline__ int first_row(int warp) { return warp % warps_rows * tiles * 16; }
};

// What a thread knows of its matrix rows: row [i][h] is row first + step * i + 8h + g, g = lane / 4.
template <int tiles>
struct RowsOfThread {
  int32_t row[tiles][2];  // of the plan, relative to the tile's first; -1 behind the last
  int32_t pos[tiles][2];

  __device__ __forceinline__ RowsOfThread(const TreeAttentionWork& work, const TilePlace& place, int first, int step) {
    const int g = int(threadIdx.x % 32 / 4);
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int r = (first + i * step + h * 8 + g) / work.group;
        row[i][h] = r < place.rows ? r : -1;
        pos[i][h] = r < place.rows ? work.p.row_pos[place.first_row + r] : -1;
      }
    }
  }
};

// Running soft-max of a thread's rows. out: weighted values, columns 8j + 2t of the warp's and the next of row [i][h]
// in out[i][j][2h], [2h + 1], t = lane % 4. Until finish() top is in units of the scores and total the thread's own
// share.
template <class Config, int tiles>
struct Accumulator {
  float out[tiles][Config::kColumns / 8][4];
  float top[tiles][2], total[tiles][2];

  __device__ __forceinline__ Accumulator() {
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
#pragma unroll
      for (int j = 0; j < Config::kColumns / 8; ++j)
        for (int e = 0; e < 4; ++e) out[i][j][e] = 0.0f;
      for (int h = 0; h < 2; ++h) top[i][h] = -INFINITY, total[i][h] = 0.0f;
    }
  }

  // top to base 2, total over all columns.
  __device__ __forceinline__ void finish(float unit) {
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        top[i][h] *= unit;
        total[i][h] += __shfl_xor_sync(kAllLanes, total[i][h], 1);
        total[i][h] += __shfl_xor_sync(kAllLanes, total[i][h], 2);
      }
    }
  }
};

// Operands of matrix products in 16 bits and the products.
template <class T>
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same<T, BFloat16>::value) ptx::multiply_bfloat16(c, a, b0, b1);
  else ptx::multiply_half(c, a, b0, b1);
}

// Scores of keys 16k to 16k + 15 as the first operand of a product, in pairs of one register.
template <class T, int columns>
__device__ __forceinline__ void pack_weights(uint32_t (&w)[4], const float (&scores)[columns][4], int k) {
#pragma unroll
  for (int r = 0; r < 4; ++r) w[r] = pack<T>(scores[2 * k + r / 2][r % 2 * 2], scores[2 * k + r / 2][r % 2 * 2 + 1]);
}

// What is done to the scores of `tiles` tiles of rows, from the tile `first` of a thread on, and of `width` keys.
template <class Config, int tiles, int width>
class SoftMax {
 public:
  static constexpr int kColumns = width / 8;
  using Scores = float[tiles][kColumns][4];

  __device__ __forceinline__ explicit SoftMax(const TreeAttentionWork& work)
      : work_(work), lane_(int(threadIdx.x % 32)) {
    const TreeAttentionParams& p = work.p;
    // Not 0: that times -inf would be NaN.
    unit_ = fmaxf((p.softcap > 0.0f ? p.softcap : p.scale) * kLog2E, 1.2e-38f);
    // A window longer than any path is none.
    window_ = p.window > 0 && p.window < INT32_MAX ? int32_t(p.window) : INT32_MAX;
  }

  __device__ __forceinline__ float unit() const { return unit_; }

  // From products of queries and keys to what values are multiplied by.
  template <int all>
  __device__ __forceinline__ void weigh_values(Scores& scores, Accumulator<Config, all>& acc,
                                               const RowsOfThread<all>& rows, const KeySlot<Config>& slot,
                                               int first_key, int first) const {
    scale(scores, slot, first_key);
    bool whole = true;
    for (int i = first_key / 32; i <= (first_key + width - 1) / 32; ++i) whole &= slot.whole[i] != 0;
    if (!whole) hide(scores, rows, slot, first_key, first);
    soften(scores, acc, first);
    if (Config::kEightBit) weigh(scores, slot.v_scale + first_key);
  }

 private:
  // The scales of 8-bit keys, and the soft-cap; scores then are in units of unit_.
  __device__ __forceinline__ void scale(Scores& scores, const KeySlot<Config>& slot, int first_key) const {
    if (Config::kEightBit) weigh(scores, slot.k_scale + first_key);
    if (work_.p.softcap == 0.0f) return;
    const float factor = work_.p.scale / work_.p.softcap;
#pragma unroll
    for (int i = 0; i < tiles; ++i)
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
        for (int e = 0; e < 4; ++e) scores[i][n][e] = tanhf(scores[i][n][e] * factor);
  }

  // Times a factor per key.
  __device__ __forceinline__ void weigh(Scores& scores, const float* factors) const {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float factor = factors[n * 8 + lane_ % 4 * 2 + e];
#pragma unroll
        for (int i = 0; i < tiles; ++i) scores[i][n][e] *= factor, scores[i][n][2 + e] *= factor;
      }
    }
  }

  // -inf for keys that a row does not see.
  template <int all>
  __device__ __forceinline__ void hide(Scores& scores, const RowsOfThread<all>& rows, const KeySlot<Config>& slot,
                                       int first_key, int first) const {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      // Both at once: 16 bytes.
      const auto pair = *reinterpret_cast<const Vec16*>(&slot.seen[first_key + n * 8 + lane_ % 4 * 2]);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const auto pos = int32_t(pair.words[2 * e]);
        const auto row_begin = int32_t(pair.words[2 * e + 1] & 0xffff), row_end = int32_t(pair.words[2 * e + 1] >> 16);
#pragma unroll
        for (int i = first; i < first + tiles; ++i) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int32_t row = rows.row[i][h], at = rows.pos[i][h];
            const bool seen = row >= row_begin && row < row_end && pos <= at && at - pos < window_;
            if (!seen) scores[i - first][n][2 * h + e] = -INFINITY;
          }
        }
      }
    }
  }

  // scores become exponentials relative to the running maximum, to which what is summed so far is brought.
  template <int all>
  __device__ __forceinline__ void soften(Scores& scores, Accumulator<Config, all>& acc, int first) const {
#pragma unroll
    for (int i = first; i < first + tiles; ++i) {
      float fade[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = acc.top[i][h];
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
          const float(&pairs)[4] = scores[i - first][n];
          top = fmaxf(top, fmaxf(pairs[2 * h], pairs[2 * h + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
        const float shift = finite_or_zero(top);
        fade[h] = ptx::exp2_approx((acc.top[i][h] - shift) * unit_);
        acc.top[i][h] = top;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& score = scores[i - first][n][2 * h + e];
            // Rounded once, near its own size: a product of its own would be as wrong as the largest score is.
            score = ptx::exp2_approx(fmaf(score, unit_, -shift * unit_));
            sum += score;
          }
        }
        acc.total[i][h] = acc.total[i][h] * fade[h] + sum;
      }
      // Maxima soon stop growing.
      if (!__any_sync(kAllLanes, fade[0] != 1.0f || fade[1] != 1.0f)) continue;
#pragma unroll
      for (int j = 0; j < Config::kColumns / 8; ++j)
        for (int e = 0; e < 4; ++e) acc.out[i][j][e] *= fade[e / 2];
    }
  }

  const TreeAttentionWork& work_;
  const int lane_;
  // To base 2.
  float unit_;
  int32_t window_;
};

// A warp's work on `width` keys from `first_key` of a tile.
template <class Config, int tiles, int width>
class WarpTile : public SoftMax<Config, tiles, width> {
  using T = typename Config::Element;
  using Base = SoftMax<Config, tiles, width>;
  using typename Base::Scores;
  using Acc = Accumulator<Config, tiles>;
  static constexpr int kColumns = Base::kColumns, kLineBytes = SharedTile::kLineBytes;

 public:
  __device__ __forceinline__ WarpTile(const TreeAttentionWork& work, SharedTile queries, int first_row,
                                      int first_column)
      : Base(work),
        queries_(queries),
        first_row_(first_row),
        first_column_(first_column),
        lane_(int(threadIdx.x % 32)) {}

  __device__ __forceinline__ void attend(Acc& acc, const RowsOfThread<tiles>& rows, const KeySlot<Config>& slot,
                                         SharedTile keys, SharedTile values, int first_key) const {
    Scores scores = {};
    multiply_queries(scores, keys, first_key);
    this->weigh_values(scores, acc, rows, slot, first_key, 0);
    multiply_values(scores, acc, values, first_key);
  }

 private:
  // scores += q k
  __device__ __forceinline__ void multiply_queries(Scores& scores, SharedTile keys, int first_key) const {
    if constexpr (Config::kTensorCores) {
      const auto q_at = ptx::shared_address(queries_.chunk(first_row_ + lane_ % 16, lane_ / 16));
      const auto k_at = ptx::shared_address(keys.chunk(first_key + lane_ % 8 + lane_ / 16 * 8, lane_ / 8 % 2));
#pragma unroll
      for (int d = 0; d < Config::kHeadDim / 16; ++d) {
        uint32_t q[tiles][4];
#pragma unroll
        for (int i = 0; i < tiles; ++i) ptx::load_matrices(q[i], queries_.advance(q_at, 2 * d) + i * 16 * kLineBytes);
#pragma unroll
        for (int n = 0; n < kColumns; n += 2) {
          uint32_t k[4];
          ptx::load_matrices(k, keys.advance(k_at, 2 * d) + n * 8 * kLineBytes);
#pragma unroll
          for (int i = 0; i < tiles; ++i) {
            multiply<T>(scores[i][n], q[i], k[0], k[1]);
            multiply<T>(scores[i][n + 1], q[i], k[2], k[3]);
          }
        }
      }
    } else {
      multiply_queries_plainly<Config::kHeadDim>(scores, queries_, first_row_, keys, first_key);
    }
  }

  // out += exponentials v
  __device__ __forceinline__ void multiply_values(Scores& scores, Acc& acc, SharedTile values, int first_key) const {
    if constexpr (Config::kTensorCores) {
      const auto v_at = ptx::shared_address(values.chunk(first_key + lane_ % 16, lane_ / 16));
#pragma unroll
      for (int k = 0; k < width / 16; ++k) {
        uint32_t w[tiles][4];
#pragma unroll
        for (int i = 0; i < tiles; ++i) pack_weights<T>(w[i], scores[i], k);
#pragma unroll
        for (int j = 0; j < Config::kHeadDim / 8; j += 2) {
          uint32_t v[4];
          ptx::load_matrices_transposed(v, values.advance(v_at, j) + k * 16 * kLineBytes);
#pragma unroll
          for (int i = 0; i < tiles; ++i) {
            multiply<T>(acc.out[i][j], w[i], v[0], v[1]);
            multiply<T>(acc.out[i][j + 1], w[i], v[2], v[3]);
          }
        }
      }
    } else {
      multiply_values_plainly(scores, acc.out, values, first_key, first_column_);
    }
  }

  const SharedTile queries_;
  const int first_row_, first_column_, lane_;
};

}  // namespace tts::cuda
