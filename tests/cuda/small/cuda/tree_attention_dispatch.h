// In place of csrc/cuda/tree_attention_dispatch.h: one kernel and its twin for 8-bit pages instead of forty-four, for
// tests that compile the sources many times. Queries in bfloat16, head_dim up to 64.
#pragma once
#include <type_traits>

#include "cuda/tree_attention_kernel.h"
#include "cuda/tree_attention_products.h"

namespace tts::cuda {

template <class T>
int run_tree_attention(TreeAttentionWork& work, Stream stream) {
  if constexpr (std::is_same<T, BFloat16>::value) {
    const int64_t rows = work.p.max_unit_rows, most = work.p.invariant ? 64 : 128;
    const int64_t fitting = most / work.group;
    work.tile_rows = int32_t(work.p.invariant || rows > fitting ? fitting : rows);
    work.tiles = int32_t((rows + work.tile_rows - 1) / work.tile_rows);
    return work.p.stored == Stored::kSame
               ? start_tree_attention<TreeAttentionConfig<BFloat16, false, 64, 128, kBySmallWarpgroups>>(work, stream)
               : start_tree_attention<TreeAttentionConfig<BFloat16, true, 64, 128, kBySmallWarpgroups>>(work, stream);
  }
  return 1;
}

}  // namespace tts::cuda
