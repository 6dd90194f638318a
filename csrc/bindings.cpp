// Every torch op on one screen, and their CPU kernels.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include "cpu/dispatch.h"
#include "ops.h"

namespace {

const tts::Parallel& torch_pool() {
  static thread_local tts::Parallel pool;
  pool.num_threads = static_cast<int>(torch::stable::get_num_threads());
  pool.run = [](int64_t tasks, tts::Parallel::Body body, void* context) {
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
  };
  return pool;
}

#define TTS_ON_CPU(op, Params) \
  static void op(const tts::Params& p, const tts::Tensor&) { TTS_CALL_KERNEL(op, p, torch_pool()); }
struct Cpu {
  static void tree_attention(const tts::TreeAttentionParams& p, const tts::Tensor&) {
    TTS_CALL_MATRIX_KERNEL(tree_attention, p, torch_pool());
  }
  static void linear(const tts::LinearParams& p, const tts::Tensor&) {
    TTS_CALL_MATRIX_KERNEL(linear, p, torch_pool());
  }
  TTS_ON_CPU(rms_norm, LayerParams)
  TTS_ON_CPU(silu_mul, LayerParams)
  TTS_ON_CPU(merge_states, MergeStatesParams)
  TTS_ON_CPU(write_kv, WriteKvParams)
  TTS_ON_CPU(copy_pages, CopyPagesParams)
  TTS_ON_CPU(sample_children, SampleChildrenParams)
  TTS_ON_CPU(score_steps, ScoreStepsParams)
  TTS_ON_CPU(select_children, SelectChildrenParams)
};

int64_t cpu_isa() { return static_cast<int64_t>(tts::current_isa()); }
bool set_cpu_isa(int64_t isa) { return tts::set_isa(static_cast<tts::Isa>(isa)); }

}  // namespace

STABLE_TORCH_LIBRARY(tts_kernels, m) {
  m.def(
      "tree_attention(Tensor q, Tensor k_pages, Tensor v_pages, Tensor? k_scales, Tensor? v_scales, Tensor? sinks, "
      "Tensor units, Tensor runs, Tensor unit_reads, Tensor reads, Tensor page_ids, Tensor row_pos, Tensor join_ptr, "
      "Tensor join_slots, Tensor(a!) part_out, Tensor(b!) part_lse, Tensor(c!)? counters, Tensor(d!) out, "
      "Tensor(e!) lse, float scale, float softcap, int window, int max_unit_rows, bool invariant) -> ()");
  m.def("linear(Tensor x, Tensor weight, Tensor? bias, Tensor(a!) out) -> ()");
  m.def("rms_norm(Tensor x, Tensor weight, Tensor(a!) out, float eps) -> ()");
  m.def("silu_mul(Tensor gate, Tensor up, Tensor(a!) out) -> ()");
  m.def("merge_states(Tensor outs, Tensor lses, Tensor(a!) out, Tensor(b!) lse) -> ()");
  m.def(
      "write_kv(Tensor k, Tensor v, Tensor(a!) k_pages, Tensor(b!) v_pages, Tensor slots, Tensor(c!)? k_scales, "
      "Tensor(d!)? v_scales) -> ()");
  m.def("copy_pages(Tensor(a!) k_pages, Tensor(b!) v_pages, Tensor src, Tensor dst) -> ()");
  m.def(
      "sample_children(Tensor logits, Tensor keys, Tensor positions, Tensor offsets, Tensor(a!) tokens, "
      "Tensor(b!) log_probs, float temperature, int top_k, float top_p, float min_p, bool distinct) -> ()");
  m.def(
      "score_steps(Tensor hidden, Tensor rows, Tensor offsets, Tensor weight, Tensor? bias, Tensor? prior, "
      "Tensor? prior_steps, Tensor(a!) step_scores, Tensor(b!) path_scores, int positive, int head, "
      "int aggregate) -> ()");
  m.def(
      "select_children(Tensor scores, Tensor offsets, Tensor keep, Tensor budget, Tensor(a!) widths, int rule, "
      "float temperature) -> ()");
  m.def("cpu_isa() -> int");
  m.def("set_cpu_isa(int isa) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(tts_kernels, CPU, m) {
  TTS_REGISTER_OPS(m, Cpu);
  m.impl("linear", TORCH_BOX(&tts::linear<Cpu>));
  m.impl("rms_norm", TORCH_BOX(&tts::rms_norm<Cpu>));
  m.impl("silu_mul", TORCH_BOX(&tts::silu_mul<Cpu>));
}

STABLE_TORCH_LIBRARY_IMPL(tts_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("set_cpu_isa", TORCH_BOX(&set_cpu_isa));
}

// Importing the module is what registers the ops; it has no Python content of its own.
static PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__C(void) { return PyModule_Create(&module_def); }
