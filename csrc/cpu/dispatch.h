// Every CPU kernel is compiled once per instruction set, in a namespace of that name; the best one this
// processor runs is chosen at run time. setup.py holds the flags and defines TTS_ISA for each build.
#pragma once
#include "cpu/parallel.h"
#include "params.h"

#if defined(__x86_64__)
#define TTS_FOR_EACH_ISA(X) X(base) X(avx2) X(avx512)
#else
#define TTS_FOR_EACH_ISA(X) X(base)
#endif

#define TTS_DECLARE_KERNELS(isa)                                             \
  namespace tts::isa {                                                       \
  void tree_attention(const TreeAttentionParams& p, const Parallel& pool);   \
  void merge_states(const MergeStatesParams& p, const Parallel& pool);       \
  void write_kv(const WriteKvParams& p, const Parallel& pool);               \
  void copy_pages(const CopyPagesParams& p, const Parallel& pool);           \
  void sample_children(const SampleChildrenParams& p, const Parallel& pool); \
  void score_steps(const ScoreStepsParams& p, const Parallel& pool);         \
  void select_children(const SelectChildrenParams& p, const Parallel& pool); \
  }
TTS_FOR_EACH_ISA(TTS_DECLARE_KERNELS)
#undef TTS_DECLARE_KERNELS

namespace tts {

enum class Isa { base, avx2, avx512 };

// The best instruction set of this processor, or the lower one named by set_isa().
Isa current_isa();
// For tests and benchmarks; false when this processor lacks it.
bool set_isa(Isa isa);

}  // namespace tts

#if defined(__x86_64__)
#define TTS_CALL_KERNEL(op, params, pool)                            \
  switch (::tts::current_isa()) {                                    \
    case ::tts::Isa::avx512: ::tts::avx512::op(params, pool); break; \
    case ::tts::Isa::avx2: ::tts::avx2::op(params, pool); break;     \
    case ::tts::Isa::base: ::tts::base::op(params, pool); break;     \
  }
#else
#define TTS_CALL_KERNEL(op, params, pool) ::tts::base::op(params, pool)
#endif
