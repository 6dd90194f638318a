// Every torch op on one screen. Torch's stable ABI only: no ATen or c10 header, so one build serves torch >= 2.10.
// The Python side checks shapes and allocates outputs; what is left here is pointers.
#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "cpu/dispatch.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const tts::Parallel& torch_pool() {
  static thread_local tts::Parallel pool;
  pool.num_threads = static_cast<int>(torch::stable::get_num_threads());
  pool.run = [](int64_t tasks, tts::Parallel::Body body, void* context) {
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
  };
  return pool;
}

tts::DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::BFloat16: return tts::DType::kBFloat16;
    case ScalarType::Half: return tts::DType::kFloat16;
    default: STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, "dtype must be float32, bfloat16 or float16");
  }
  return tts::DType::kFloat32;
}

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
const T* in(const std::optional<Tensor>& t) {
  return t ? in<T>(*t) : nullptr;
}
template <class T>
T* out(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

void tree_attention_cpu(Tensor q, Tensor k_pages, Tensor v_pages, Tensor units, Tensor runs, Tensor page_ids,
                        Tensor row_pos, Tensor join_ptr, Tensor join_slots, Tensor part_out, Tensor part_lse,
                        Tensor out_, Tensor lse, double scale, double softcap, int64_t window) {
  const tts::TreeAttentionParams p{q.const_data_ptr(),
                                   k_pages.const_data_ptr(),
                                   v_pages.const_data_ptr(),
                                   in<tts::Unit>(units),
                                   in<tts::Run>(runs),
                                   in<int32_t>(page_ids),
                                   in<int32_t>(row_pos),
                                   in<int32_t>(join_ptr),
                                   in<int32_t>(join_slots),
                                   out<float>(part_out),
                                   out<float>(part_lse),
                                   out_.mutable_data_ptr(),
                                   out<float>(lse),
                                   q.stride(0),
                                   q.stride(1),
                                   q.size(0),
                                   units.size(0),
                                   q.size(1),
                                   k_pages.size(1),
                                   q.size(2),
                                   k_pages.size(2),
                                   static_cast<float>(scale),
                                   static_cast<float>(softcap),
                                   window,
                                   dtype_of(q)};
  TTS_CALL_KERNEL(tree_attention, p, torch_pool());
}

void merge_states_cpu(Tensor outs, Tensor lses, Tensor out_, Tensor lse) {
  const tts::MergeStatesParams p{outs.const_data_ptr(), in<float>(lses), out_.mutable_data_ptr(),
                                 out<float>(lse),       outs.size(0),    outs.size(1),
                                 outs.size(2),          outs.size(3),    dtype_of(outs)};
  TTS_CALL_KERNEL(merge_states, p, torch_pool());
}

void write_kv_cpu(Tensor k, Tensor v, Tensor k_pages, Tensor v_pages, Tensor slots) {
  const tts::WriteKvParams p{k.const_data_ptr(),
                             v.const_data_ptr(),
                             k_pages.mutable_data_ptr(),
                             v_pages.mutable_data_ptr(),
                             in<int32_t>(slots),
                             k.stride(0),
                             k.stride(1),
                             v.stride(0),
                             v.stride(1),
                             k.size(0),
                             k.size(1),
                             k.size(2),
                             k_pages.size(2),
                             static_cast<int64_t>(k.element_size())};
  TTS_CALL_KERNEL(write_kv, p, torch_pool());
}

void copy_pages_cpu(Tensor k_pages, Tensor v_pages, Tensor src, Tensor dst) {
  const int64_t page_bytes = k_pages.size(2) * k_pages.size(3) * k_pages.size(4) * int64_t(k_pages.element_size());
  const tts::CopyPagesParams p{k_pages.mutable_data_ptr(),
                               v_pages.mutable_data_ptr(),
                               in<int32_t>(src),
                               in<int32_t>(dst),
                               k_pages.size(0),
                               k_pages.size(1),
                               src.size(0),
                               page_bytes};
  TTS_CALL_KERNEL(copy_pages, p, torch_pool());
}

void sample_children_cpu(Tensor logits, Tensor keys, Tensor positions, Tensor offsets, Tensor tokens, Tensor log_probs,
                         double temperature, int64_t top_k, double top_p, double min_p, bool distinct) {
  const tts::SampleChildrenParams p{logits.const_data_ptr(),
                                    in<int64_t>(keys),
                                    in<int32_t>(positions),
                                    in<int32_t>(offsets),
                                    out<int64_t>(tokens),
                                    out<float>(log_probs),
                                    logits.size(0),
                                    logits.size(1),
                                    temperature,
                                    top_p,
                                    min_p,
                                    top_k,
                                    distinct,
                                    dtype_of(logits)};
  TTS_CALL_KERNEL(sample_children, p, torch_pool());
}

void score_steps_cpu(Tensor hidden, Tensor rows, Tensor offsets, Tensor weight, std::optional<Tensor> bias,
                     std::optional<Tensor> prior, std::optional<Tensor> prior_steps, Tensor step_scores,
                     Tensor path_scores, int64_t positive, int64_t head, int64_t aggregate) {
  const tts::ScoreStepsParams p{hidden.const_data_ptr(),
                                in<int32_t>(rows),
                                in<int32_t>(offsets),
                                weight.const_data_ptr(),
                                in<float>(bias),
                                in<float>(prior),
                                in<int32_t>(prior_steps),
                                out<float>(step_scores),
                                out<float>(path_scores),
                                rows.size(0),
                                path_scores.size(0),
                                weight.size(0),
                                hidden.size(1),
                                positive,
                                static_cast<tts::ScoreHead>(head),
                                static_cast<tts::Aggregate>(aggregate),
                                dtype_of(hidden)};
  TTS_CALL_KERNEL(score_steps, p, torch_pool());
}

void select_children_cpu(Tensor scores, Tensor offsets, Tensor keep, Tensor budget, Tensor widths, int64_t rule,
                         double temperature) {
  const tts::SelectChildrenParams p{in<float>(scores),
                                    in<int32_t>(offsets),
                                    in<int32_t>(keep),
                                    in<int32_t>(budget),
                                    out<int32_t>(widths),
                                    keep.size(0),
                                    static_cast<tts::SelectRule>(rule),
                                    temperature};
  TTS_CALL_KERNEL(select_children, p, torch_pool());
}

int64_t cpu_isa() { return static_cast<int64_t>(tts::current_isa()); }
bool set_cpu_isa(int64_t isa) { return tts::set_isa(static_cast<tts::Isa>(isa)); }

}  // namespace

STABLE_TORCH_LIBRARY(tts_kernels, m) {
  m.def(
      "tree_attention(Tensor q, Tensor k_pages, Tensor v_pages, Tensor units, Tensor runs, Tensor page_ids, "
      "Tensor row_pos, Tensor join_ptr, Tensor join_slots, Tensor(a!) part_out, Tensor(b!) part_lse, "
      "Tensor(c!) out, Tensor(d!) lse, float scale, float softcap, int window) -> ()");
  m.def("merge_states(Tensor outs, Tensor lses, Tensor(a!) out, Tensor(b!) lse) -> ()");
  m.def("write_kv(Tensor k, Tensor v, Tensor(a!) k_pages, Tensor(b!) v_pages, Tensor slots) -> ()");
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
  m.impl("tree_attention", TORCH_BOX(&tree_attention_cpu));
  m.impl("merge_states", TORCH_BOX(&merge_states_cpu));
  m.impl("write_kv", TORCH_BOX(&write_kv_cpu));
  m.impl("copy_pages", TORCH_BOX(&copy_pages_cpu));
  m.impl("sample_children", TORCH_BOX(&sample_children_cpu));
  m.impl("score_steps", TORCH_BOX(&score_steps_cpu));
  m.impl("select_children", TORCH_BOX(&select_children_cpu));
}

STABLE_TORCH_LIBRARY_IMPL(tts_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("set_cpu_isa", TORCH_BOX(&set_cpu_isa));
}

// Importing the module is what registers the ops; it has no Python content of its own.
static PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__C(void) { return PyModule_Create(&module_def); }
