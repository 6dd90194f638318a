// Lets a build of only some of the kernels link: the other ops fail.
#include "cuda/launchers.h"

namespace tts::cuda {

#define SIMT_ABSENT(op, Params) \
  __attribute__((weak)) int op(const Params&, Stream) { return 1; }
SIMT_ABSENT(tree_attention, TreeAttentionParams)
SIMT_ABSENT(merge_states, MergeStatesParams)
SIMT_ABSENT(write_kv, WriteKvParams)
SIMT_ABSENT(copy_pages, CopyPagesParams)
SIMT_ABSENT(sample_children, SampleChildrenParams)
SIMT_ABSENT(score_steps, ScoreStepsParams)
SIMT_ABSENT(select_children, SelectChildrenParams)

}  // namespace tts::cuda
