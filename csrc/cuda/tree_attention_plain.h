// Products of float32 tiles without tensor cores: the same elements in the same registers of a warp's lanes.
#pragma once
#include "cuda/tree_attention_config.h"

namespace tts::cuda {

// sums += q k of column d, for 16 * tiles queries and 8 * columns keys.
template <int tiles, int columns>
__device__ __forceinline__ void add_products(float (&sums)[tiles][columns][4], SharedTile queries, int first_row,
                                             SharedTile keys, int first_key, int d) {
  const int g = int(threadIdx.x % 32 / 4), t = int(threadIdx.x % 4);
#pragma unroll
  for (int i = 0; i < tiles; ++i) {
    const float q0 = *queries.element<float>(first_row + i * 16 + g, d);
    const float q1 = *queries.element<float>(first_row + i * 16 + g + 8, d);
#pragma unroll
    for (int n = 0; n < columns; ++n) {
      const float k0 = *keys.element<float>(first_key + n * 8 + 2 * t, d);
      const float k1 = *keys.element<float>(first_key + n * 8 + 2 * t + 1, d);
      sums[i][n][0] = fmaf(q0, k0, sums[i][n][0]);
      sums[i][n][1] = fmaf(q0, k1, sums[i][n][1]);
      sums[i][n][2] = fmaf(q1, k0, sums[i][n][2]);
      sums[i][n][3] = fmaf(q1, k1, sums[i][n][3]);
    }
  }
}

// scores += q k. Sums of 16 products are summed: rounding grows with the longest chain of additions.
template <int head_dim, int tiles, int columns>
__device__ __forceinline__ void multiply_queries_plainly(float (&scores)[tiles][columns][4], SharedTile queries,
                                                         int first_row, SharedTile keys, int first_key) {
#pragma unroll 1
  for (int d = 0; d < head_dim; d += 16) {
    float sums[tiles][columns][4] = {};
#pragma unroll 1
    for (int e = d; e < d + 16; ++e) add_products(sums, queries, first_row, keys, first_key, e);
#pragma unroll
    for (int i = 0; i < tiles; ++i)
#pragma unroll
      for (int n = 0; n < columns; ++n)
        for (int e = 0; e < 4; ++e) scores[i][n][e] += sums[i][n][e];
  }
}

// out += weights v
template <int tiles, int columns, int vectors>
__device__ __forceinline__ void multiply_values_plainly(const float (&weights)[tiles][columns][4],
                                                        float (&out)[tiles][vectors][4], SharedTile values,
                                                        int first_key, int first_column) {
  const int lane = int(threadIdx.x % 32);
#pragma unroll
  for (int n = 0; n < columns; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      // Unrolled further, loads of values would fill the registers.
#pragma unroll 1
      for (int t = 0; t < 4; ++t) {
        const int key = first_key + n * 8 + t * 2 + e;
#pragma unroll
        for (int i = 0; i < tiles; ++i) {
          const float w0 = __shfl_sync(kAllLanes, weights[i][n][e], lane / 4 * 4 + t);
          const float w1 = __shfl_sync(kAllLanes, weights[i][n][2 + e], lane / 4 * 4 + t);
#pragma unroll
          for (int j = 0; j < vectors; ++j) {
            const float* v = values.element<float>(key, first_column + j * 8 + lane % 4 * 2);
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              out[i][j][c] = fmaf(w0, v[c], out[i][j][c]);
              out[i][j][2 + c] = fmaf(w1, v[c], out[i][j][2 + c]);
            }
          }
        }
      }
    }
  }
}

}  // namespace tts::cuda
