// From the arguments of a call to the kernel compiled for them.
#pragma once
#include "cuda/tree_attention_kernel.h"

namespace tts::cuda {

// Shared memory that a block may have, in bytes (CUDA C++ Programming Guide, technical specifications per compute
// capability).
inline int max_shared_bytes() {
  const int capability = compute_capability();
  if (capability == 80 || capability == 87) return 163 * 1024;
  return capability == 90 || capability / 10 == 10 ? 227 * 1024 : 99 * 1024;
}

// The tallest tile of a kernel, in matrix rows. Its accumulator fills the registers: two rows of 16 per warp and 128
// columns, or one and 256. Without tensor cores the keys wait for the arithmetic, not for memory.
template <class T, int head_dim>
constexpr int kTallest = sizeof(T) == 2 && head_dim <= 128 ? 128 : 64;

// Whether the library has products of warpgroups for these.
template <class T, int head_dim>
constexpr bool kForWarpgroups = ptx::kBuiltForWarpgroups && sizeof(T) == 2 && head_dim <= 128;

template <class T, bool eight_bit, int head_dim, bool warpgroups>
int run_with_rows(TreeAttentionWork& work, Stream stream) {
  constexpr int kTall = kTallest<T, head_dim>;
  using Low = TreeAttentionConfig<T, eight_bit, head_dim, 16>;
  using Tall = TreeAttentionConfig<T, eight_bit, head_dim, kTall, warpgroups>;
  const int64_t rows = work.p.max_unit_rows, group = work.group;
  const auto cut = [&](int matrix_rows) {
    const int64_t fitting = matrix_rows / group > 1 ? matrix_rows / group : 1;
    work.tile_rows = int32_t(rows < fitting && !work.p.invariant ? rows : fitting);
    work.tiles = int32_t((rows + work.tile_rows - 1) / work.tile_rows);
  };
  if (work.p.invariant) {
    // Always the same kernel and the same tile.
    cut(64);
    return start_tree_attention<Tall>(work, stream);
  }
  if (rows * group <= 16) {
    cut(16);
    return start_tree_attention<Low>(work, stream);
  }
  if constexpr (kTall == 128) {
    // Eight warps instead of four: keys are read once for twice the rows.
    using Taller = TreeAttentionConfig<T, eight_bit, head_dim, 256, warpgroups>;
    if (rows * group > 128 && SharedLayout<Taller>::bytes(256) <= max_shared_bytes()) {
      cut(256);
      return start_tree_attention<Taller>(work, stream);
    }
  }
  cut(kTall);
  return start_tree_attention<Tall>(work, stream);
}

template <class T, bool eight_bit, int head_dim>
int run_with_capability(TreeAttentionWork& work, Stream stream) {
  if constexpr (kForWarpgroups<T, head_dim>) {
    if (has_warpgroups()) return run_with_rows<T, eight_bit, head_dim, true>(work, stream);
  }
  return run_with_rows<T, eight_bit, head_dim, false>(work, stream);
}

template <class T, bool eight_bit>
int run_with_head_dim(TreeAttentionWork& work, Stream stream) {
  if (work.p.head_dim <= 64) return run_with_capability<T, eight_bit, 64>(work, stream);
  if (work.p.head_dim <= 128) return run_with_capability<T, eight_bit, 128>(work, stream);
  return run_with_capability<T, eight_bit, 256>(work, stream);
}

// Compiled in a file per type of queries.
template <class T>
int run_tree_attention(TreeAttentionWork& work, Stream stream) {
  return work.p.stored == Stored::kSame ? run_with_head_dim<T, false>(work, stream)
                                        : run_with_head_dim<T, true>(work, stream);
}

}  // namespace tts::cuda
