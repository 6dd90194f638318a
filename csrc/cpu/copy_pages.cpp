#include "cpu/dispatch.h"

namespace tts::TTS_ISA {
void copy_pages(const CopyPagesParams&, const Parallel&) { __builtin_trap(); }
}  // namespace tts::TTS_ISA
