#include "cpu/dispatch.h"

namespace tts::TTS_ISA {
void sample_children(const SampleChildrenParams&, const Parallel&) { __builtin_trap(); }
}  // namespace tts::TTS_ISA
