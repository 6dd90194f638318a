#include <atomic>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "cpu/dispatch.h"

namespace tts {
namespace {

#if defined(__x86_64__)
// Linux hands out the tile registers to those who ask.
bool tiles_granted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool supported(Isa isa) {
  switch (isa) {
    case Isa::base: return true;
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && supported(Isa::avx2);
    case Isa::avx512_bf16: return __builtin_cpu_supports("avx512bf16") && supported(Isa::avx512);
    case Isa::amx:
      return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && supported(Isa::avx512_bf16) &&
             tiles_granted();
  }
  return false;
}
#else
bool supported(Isa isa) { return isa == Isa::base; }
#endif

Isa best() {
  Isa isa = Isa::base;
  constexpr Isa better[] = {Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx};
  for (const Isa next : better)
    if (supported(next)) isa = next;
  return isa;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{best()};
  return isa;
}

}  // namespace

Isa current_isa() { return chosen().load(std::memory_order_relaxed); }

bool set_isa(Isa isa) {
  if (!supported(isa)) return false;
  chosen().store(isa, std::memory_order_relaxed);
  return true;
}

}  // namespace tts
