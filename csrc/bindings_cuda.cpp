// The CUDA kernels of the ops that bindings.cpp defines. No CUDA header: built by the C++ compiler alone.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda/launchers.h"
#include "ops.h"

// The dispatch key of the kernels. Tests run them on the host: there it is CPU.
#ifndef TTS_CUDA_KEY
#define TTS_CUDA_KEY CUDA
#endif

// Part of torch's C interface since 2.4, in its CUDA library: absent from a CPU build of torch.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace {

template <class Params>
void run(int (*launcher)(const Params&, tts::cuda::Stream), const char* op, const Params& p, const tts::Tensor& on) {
  std::optional<torch::stable::accelerator::DeviceGuard> guard;
  tts::cuda::Stream stream = nullptr;
  if (on.is_cuda()) {
    guard.emplace(on.get_device_index());
    const int32_t error = aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream);
    STD_TORCH_CHECK(error == 0, op, ": torch has no current stream");
  }
  const int code = launcher(p, stream);
  STD_TORCH_CHECK(code == 0, op, ": CUDA error ", code, ", ", tts::cuda::error_text(code));
}

#define TTS_ON_CUDA(op, Params) \
  static void op(const tts::Params& p, const tts::Tensor& on) { run(&tts::cuda::op, #op, p, on); }
struct Cuda {
  TTS_ON_CUDA(tree_attention, TreeAttentionParams)
  TTS_ON_CUDA(merge_states, MergeStatesParams)
  TTS_ON_CUDA(write_kv, WriteKvParams)
  TTS_ON_CUDA(copy_pages, CopyPagesParams)
  TTS_ON_CUDA(sample_children, SampleChildrenParams)
  TTS_ON_CUDA(score_steps, ScoreStepsParams)
  TTS_ON_CUDA(select_children, SelectChildrenParams)
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tts_kernels, TTS_CUDA_KEY, m) { TTS_REGISTER_OPS(m, Cuda); }
