#include "cuda/tree_attention_dispatch.h"

namespace tts::cuda {

template int run_tree_attention<Float16>(TreeAttentionWork& work, Stream stream);

}  // namespace tts::cuda
