// A loaded kernel, and the walk of a warp through it.
#pragma once
#include "machine.h"

namespace tts::ptx {

// What an instruction does to the lanes' paths; meetings and barriers wait for lanes.
enum class Flow : uint8_t { kPlain, kBranch, kTable, kLeave, kMeeting, kBarrier, kTrap };

struct Program {
  explicit Program(Launch& launch);
  Launch& launch;
  std::vector<Flow> flows;
  std::vector<Handler> handlers;
  uint64_t executed = 0;
};

// The first instruction that nothing here knows, or -1.
int first_unknown(const Instruction* code, int64_t count);

// Runs the warp until it waits at a barrier of the block or all its lanes have left.
void run_warp(Program& program, Warp& w);

}  // namespace tts::ptx
