// Every CPU kernel is compiled once per instruction set, in a namespace of that name; the best one this
// processor runs is chosen at run time. setup.py holds the flags and defines TTS_ISA for each build.
#pragma once
#include "cpu/parallel.h"
#include "params.h"

// The products of matrices are also compiled for what only newer processors have; other kernels gain nothing there.
#if defined(__x86_64__)
#define TTS_FOR_EACH_ISA(X) X(base) X(avx2) X(avx512)
#define TTS_FOR_EACH_MATRIX_ISA(X) TTS_FOR_EACH_ISA(X) X(avx512_bf16) X(amx)
#else
#define TTS_FOR_EACH_ISA(X) X(base)
#define TTS_FOR_EACH_MATRIX_ISA(X) X(base)
#endif

#define TTS_DECLARE_KERNELS(isa)                                             \
  namespace tts::isa {                                                       \
  void merge_states(const MergeStatesParams& p, const Parallel& pool);       \
  void rms_norm(const LayerParams& p, const Parallel& pool);                 \
  void silu_mul(const LayerParams& p, const Parallel& pool);                 \
  void write_kv(const WriteKvParams& p, const Parallel& pool);               \
  void copy_pages(const CopyPagesParams& p, const Parallel& pool);           \
  void sample_children(const SampleChildrenParams& p, const Parallel& pool); \
  void score_steps(const ScoreStepsParams& p, const Parallel& pool);         \
  void select_children(const SelectChildrenParams& p, const Parallel& pool); \
  }
TTS_FOR_EACH_ISA(TTS_DECLARE_KERNELS)
#undef TTS_DECLARE_KERNELS

#define TTS_DECLARE_KERNELS(isa)                                           \
  namespace tts::isa {                                                     \
  void tree_attention(const TreeAttentionParams& p, const Parallel& pool); \
  void linear(const LinearParams& p, const Parallel& pool);                \
  }
TTS_FOR_EACH_MATRIX_ISA(TTS_DECLARE_KERNELS)
#undef TTS_DECLARE_KERNELS

namespace tts {

// In ascending order: each has what those before it have.
enum class Isa { base, avx2, avx512, avx512_bf16, amx };

// The best instruction set of this processor, or the lower one named by set_isa().
Isa current_isa();
// For tests and benchmarks; false when this processor lacks it.
bool set_isa(Isa isa);

}  // namespace tts

#if defined(__x86_64__)
#define TTS_CALL_KERNEL(op, params, pool)                        \
  switch (::tts::current_isa()) {                                \
    default: ::tts::avx512::op(params, pool); break;             \
    case ::tts::Isa::avx2: ::tts::avx2::op(params, pool); break; \
    case ::tts::Isa::base: ::tts::base::op(params, pool); break; \
  }
#define TTS_CALL_MATRIX_KERNEL(op, params, pool)                               \
  switch (::tts::current_isa()) {                                              \
    case ::tts::Isa::amx: ::tts::amx::op(params, pool); break;                 \
    case ::tts::Isa::avx512_bf16: ::tts::avx512_bf16::op(params, pool); break; \
    default: TTS_CALL_KERNEL(op, params, pool)                                 \
  }
#else
#define TTS_CALL_KERNEL(op, params, pool) ::tts::base::op(params, pool)
#define TTS_CALL_MATRIX_KERNEL(op, params, pool) ::tts::base::op(params, pool)
#endif
