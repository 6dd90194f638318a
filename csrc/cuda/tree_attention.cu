#include "cuda/launch.h"
#include "cuda/tree_attention_config.h"

namespace tts::cuda {

template <class T>
int run_tree_attention(TreeAttentionWork& work, Stream stream);

namespace {

bool is_multiple_of_16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Whether every row of queries, keys, values and outputs can be moved 16 bytes at a time.
bool moves_in_vectors(const TreeAttentionParams& p) {
  const int64_t element = p.dtype == DType::kFloat32 ? 4 : 2, stored = p.stored == Stored::kSame ? element : 1;
  return p.head_dim * element % 16 == 0 && p.head_dim * stored % 16 == 0 && p.q_stride_row * element % 16 == 0 &&
         p.q_stride_head * element % 16 == 0 && is_multiple_of_16(p.q) && is_multiple_of_16(p.k_pages) &&
         is_multiple_of_16(p.v_pages) && is_multiple_of_16(p.out);
}

}  // namespace

int tree_attention(const TreeAttentionParams& p, Stream stream) {
  if (p.num_units == 0 || p.max_unit_rows == 0) return 0;
  TreeAttentionWork work{p, int32_t(p.q_heads / p.kv_heads), 0, 0, moves_in_vectors(p)};
  return with_dtype(p.dtype, [&](auto type) { return run_tree_attention<decltype(type)>(work, stream); });
}

}  // namespace tts::cuda
