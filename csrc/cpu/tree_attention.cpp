#include "cpu/dispatch.h"

namespace tts::TTS_ISA {
void tree_attention(const TreeAttentionParams&, const Parallel&) { __builtin_trap(); }
}  // namespace tts::TTS_ISA
