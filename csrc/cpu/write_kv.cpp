#include "cpu/dispatch.h"

namespace tts::TTS_ISA {
void write_kv(const WriteKvParams&, const Parallel&) { __builtin_trap(); }
}  // namespace tts::TTS_ISA
