// What every access to memory is held to, and what it counts.
#pragma once
#include "machine.h"

namespace tts::ptx {

enum class Kind { kLoad, kStore, kAtomic };

struct Access {
  const Instruction& in;
  Kind kind;
  // Of one lane, in all elements of a vector.
  int bytes;
  uint64_t at[kLanes];
  // The host's addresses of them.
  char* place[kLanes];
};

const char* verb(Kind kind);
// Both fill place, or throw a Fault.
void check_global(Warp& w, Access& access);
void check_shared(Warp& w, Access& access);
// One lane's access again, without counting: when an asynchronous copy lands.
void check_landing(Warp& w, int lane, int at_instruction, uint64_t at, int bytes);
[[noreturn]] void fail(int lane, const char* format, ...);

}  // namespace tts::ptx
