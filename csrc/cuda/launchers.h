// The CUDA kernels as bindings see them: no CUDA header needed. Pointers are device memory of the current device.
#pragma once
#include "params.h"

namespace tts::cuda {

// A cudaStream_t.
using Stream = void*;

// Each starts its kernels on the stream and returns a CUDA error code, 0 for success.
int tree_attention(const TreeAttentionParams& p, Stream stream);
int merge_states(const MergeStatesParams& p, Stream stream);
int write_kv(const WriteKvParams& p, Stream stream);
int copy_pages(const CopyPagesParams& p, Stream stream);
int sample_children(const SampleChildrenParams& p, Stream stream);
int score_steps(const ScoreStepsParams& p, Stream stream);
int select_children(const SelectChildrenParams& p, Stream stream);

// Of the current device: 80 for 8.0; 0 when there is none.
int compute_capability();
// Whether the current device has products of warpgroups, see ptx.h.
bool has_warpgroups();
const char* error_text(int code);

}  // namespace tts::cuda
