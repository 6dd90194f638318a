// From the tensors of an op to the Params of its kernel. Torch's stable ABI only: no ATen or c10 header, so one build
// serves torch >= 2.10. The Python side checks shapes and allocates outputs; what is left here is pointers.
// Device runs the kernels: it has a static function per op that takes the Params and a tensor on its device.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "params.h"

namespace tts {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    default: STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, "dtype must be float32, bfloat16 or float16");
  }
  return DType::kFloat32;
}

inline Stored stored_of(const Tensor& pages) {
  switch (pages.scalar_type()) {
    case ScalarType::Char: return Stored::kInt8;
    case ScalarType::Float8_e4m3fn: return Stored::kFloat8;
    default: return Stored::kSame;
  }
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
template <class T>
T* out(std::optional<Tensor>& t) {
  return t ? out<T>(*t) : nullptr;
}

template <class Device>
void tree_attention(Tensor q, Tensor k_pages, Tensor v_pages, std::optional<Tensor> k_scales,
                    std::optional<Tensor> v_scales, std::optional<Tensor> sinks, Tensor units, Tensor runs,
                    Tensor unit_reads, Tensor reads, Tensor page_ids, Tensor row_pos, Tensor join_ptr,
                    Tensor join_slots, Tensor part_out, Tensor part_lse, std::optional<Tensor> counters, Tensor out_,
                    Tensor lse, double scale, double softcap, int64_t window, int64_t max_unit_rows, bool invariant) {
  const TreeAttentionParams p{q.const_data_ptr(),
                              k_pages.const_data_ptr(),
                              v_pages.const_data_ptr(),
                              in<float>(k_scales),
                              in<float>(v_scales),
                              in<float>(sinks),
                              in<Unit>(units),
                              in<Run>(runs),
                              in<UnitReads>(unit_reads),
                              in<Read>(reads),
                              in<int32_t>(page_ids),
                              in<int32_t>(row_pos),
                              in<int32_t>(join_ptr),
                              in<int32_t>(join_slots),
                              part_out.mutable_data_ptr(),
                              out<float>(part_lse),
                              out<int32_t>(counters),
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
                              max_unit_rows,
                              static_cast<float>(scale),
                              static_cast<float>(softcap),
                              window,
                              invariant,
                              dtype_of(q),
                              stored_of(k_pages)};
  Device::tree_attention(p, q);
}

template <class Device>
void linear(Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor out_) {
  const LinearParams p{x.const_data_ptr(),
                       weight.const_data_ptr(),
                       bias ? bias->const_data_ptr() : nullptr,
                       out_.mutable_data_ptr(),
                       x.stride(0),
                       x.size(0),
                       weight.size(0),
                       weight.size(1),
                       dtype_of(x)};
  Device::linear(p, x);
}

template <class Device>
void rms_norm(Tensor x, Tensor weight, Tensor out_, double eps) {
  const int64_t width = weight.size(0);
  const LayerParams p{x.const_data_ptr(),
                      weight.const_data_ptr(),
                      out_.mutable_data_ptr(),
                      x.numel() / width,
                      width,
                      static_cast<float>(eps),
                      dtype_of(x)};
  Device::rms_norm(p, x);
}

template <class Device>
void silu_mul(Tensor gate, Tensor up, Tensor out_) {
  const int64_t width = gate.size(gate.dim() - 1);
  const LayerParams p{
      gate.const_data_ptr(), up.const_data_ptr(), out_.mutable_data_ptr(), gate.numel() / width, width, 0.0f,
      dtype_of(gate)};
  Device::silu_mul(p, gate);
}

template <class Device>
void merge_states(Tensor outs, Tensor lses, Tensor out_, Tensor lse) {
  const MergeStatesParams p{outs.const_data_ptr(), in<float>(lses), out_.mutable_data_ptr(),
                            out<float>(lse),       outs.size(0),    outs.size(1),
                            outs.size(2),          outs.size(3),    dtype_of(outs)};
  Device::merge_states(p, outs);
}

template <class Device>
void write_kv(Tensor k, Tensor v, Tensor k_pages, Tensor v_pages, Tensor slots, std::optional<Tensor> k_scales,
              std::optional<Tensor> v_scales) {
  const Stored stored = stored_of(k_pages);
  const WriteKvParams p{k.const_data_ptr(),
                        v.const_data_ptr(),
                        k_pages.mutable_data_ptr(),
                        v_pages.mutable_data_ptr(),
                        in<int32_t>(slots),
                        out<float>(k_scales),
                        out<float>(v_scales),
                        k.stride(0),
                        k.stride(1),
                        v.stride(0),
                        v.stride(1),
                        k.size(0),
                        k.size(1),
                        k.size(2),
                        k_pages.size(2),
                        static_cast<int64_t>(k.element_size()),
                        stored == Stored::kSame ? DType::kFloat32 : dtype_of(k),
                        stored};
  Device::write_kv(p, k);
}

template <class Device>
void copy_pages(Tensor k_pages, Tensor v_pages, Tensor src, Tensor dst) {
  const int64_t page_bytes = k_pages.size(2) * k_pages.size(3) * k_pages.size(4) * int64_t(k_pages.element_size());
  const CopyPagesParams p{k_pages.mutable_data_ptr(),
                          v_pages.mutable_data_ptr(),
                          in<int32_t>(src),
                          in<int32_t>(dst),
                          k_pages.size(0),
                          k_pages.size(1),
                          src.size(0),
                          page_bytes};
  Device::copy_pages(p, k_pages);
}

template <class Device>
void sample_children(Tensor logits, Tensor keys, Tensor positions, Tensor offsets, Tensor tokens, Tensor log_probs,
                     double temperature, int64_t top_k, double top_p, double min_p, bool distinct) {
  const SampleChildrenParams p{logits.const_data_ptr(),
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
  Device::sample_children(p, logits);
}

template <class Device>
void score_steps(Tensor hidden, Tensor rows, Tensor offsets, Tensor weight, std::optional<Tensor> bias,
                 std::optional<Tensor> prior, std::optional<Tensor> prior_steps, Tensor step_scores, Tensor path_scores,
                 int64_t positive, int64_t head, int64_t aggregate) {
  const ScoreStepsParams p{
      hidden.const_data_ptr(), in<int32_t>(rows), in<int32_t>(offsets),         weight.const_data_ptr(),
      in<float>(bias),         in<float>(prior),  in<int32_t>(prior_steps),     out<float>(step_scores),
      out<float>(path_scores), rows.size(0),      path_scores.size(0),          weight.size(0),
      hidden.size(1),          positive,          static_cast<ScoreHead>(head), static_cast<Aggregate>(aggregate),
      dtype_of(hidden)};
  Device::score_steps(p, hidden);
}

template <class Device>
void select_children(Tensor scores, Tensor offsets, Tensor keep, Tensor budget, Tensor widths, int64_t rule,
                     double temperature) {
  const SelectChildrenParams p{
      in<float>(scores), in<int32_t>(offsets),          in<int32_t>(keep), in<int32_t>(budget), out<int32_t>(widths),
      keep.size(0),      static_cast<SelectRule>(rule), temperature};
  Device::select_children(p, scores);
}

}  // namespace tts

// Registers every op of Device.
#define TTS_REGISTER_OPS(m, Device)                                    \
  m.impl("tree_attention", TORCH_BOX(&tts::tree_attention<Device>));   \
  m.impl("merge_states", TORCH_BOX(&tts::merge_states<Device>));       \
  m.impl("write_kv", TORCH_BOX(&tts::write_kv<Device>));               \
  m.impl("copy_pages", TORCH_BOX(&tts::copy_pages<Device>));           \
  m.impl("sample_children", TORCH_BOX(&tts::sample_children<Device>)); \
  m.impl("score_steps", TORCH_BOX(&tts::score_steps<Device>));         \
  m.impl("select_children", TORCH_BOX(&tts::select_children<Device>))
