// The lanes of a warp that are furthest behind run together, so that paths which parted meet again.
#include <algorithm>

#include "checks.h"
#include "program.h"

namespace tts::ptx {
namespace {

Flow flow_of(const Instruction& in) {
  switch (Op(in.op)) {
    case Op::kBra: return Flow::kBranch;
    case Op::kBrx: return Flow::kTable;
    case Op::kExit:
    case Op::kRet: return Flow::kLeave;
    case Op::kTrap: return Flow::kTrap;
    case Op::kBar:
    case Op::kBarred: return Flow::kBarrier;
    case Op::kBarwarp:
    case Op::kLdmatrix:
    case Op::kMatch:
    case Op::kMma:
    case Op::kRedux:
    case Op::kShfl:
    case Op::kVote: return Flow::kMeeting;
    default: return Flow::kPlain;
  }
}

Handler find(const Instruction& in) {
  for (const auto finder : {find_integer, find_float, find_bits, find_convert, find_memory, find_warp}) {
    if (const Handler handler = finder(in)) return handler;
  }
  return nullptr;
}

class Paths {
 public:
  explicit Paths(Program& program) : program_(program), launch_(program.launch) {}
  void run(Warp& w);

 private:
  void step(Warp& w);
  void part(Warp& w, uint32_t moving, int to, int rest_to);
  void select(Warp& w);
  void branch(Warp& w, const Instruction& in);
  void leave(Warp& w);
  bool gather(Warp& w, uint32_t wanted);
  void meeting(Warp& w, const Instruction& in);
  void barrier(Warp& w, const Instruction& in);

  Program& program_;
  Launch& launch_;
};

void Paths::run(Warp& w) {
  select(w);
  while (w.running) step(w);
}

void Paths::step(Warp& w) {
  const Instruction& in = launch_.code[w.at];
  w.mask = w.running;
  if (in.guard != kNoOperand) {
    const uint32_t* guard = w.from<uint32_t>(in.guard);
    uint32_t hits = 0;
    for (int lane = 0; lane < kLanes; ++lane) hits |= ((guard[lane] != 0) != in.guard_negated) << lane;
    w.mask &= hits;
  }
  ++launch_.counts[w.at].executed;
  if (++program_.executed > launch_.max_executed) fail(-1, "no end after %llu instructions", program_.executed - 1);
  switch (w.mask ? program_.flows[w.at] : Flow::kPlain) {
    case Flow::kPlain:
      if (w.mask) program_.handlers[w.at](w, in);
      if (++w.at == w.next_wait) part(w, w.running, w.at, w.at);
      return;
    case Flow::kBranch: return part(w, w.mask, in.target, w.at + 1);
    case Flow::kTable: return branch(w, in);
    case Flow::kLeave: return leave(w);
    case Flow::kMeeting: return meeting(w, in);
    case Flow::kBarrier: return barrier(w, in);
    case Flow::kTrap: fail(w.first_lane(), "trap");
  }
}

// Sends the moving lanes of the path one way and the rest another.
void Paths::part(Warp& w, uint32_t moving, int to, int rest_to) {
  if (moving == w.running && to < w.next_wait && (w.live & moving) == moving) {
    w.at = to;
    return;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    if (w.running >> lane & 1) w.lane_at[lane] = moving >> lane & 1 ? to : rest_to;
  }
  select(w);
}

// Takes up the lanes that are furthest behind.
void Paths::select(Warp& w) {
  const uint32_t ready = w.live & ~w.parked;
  if (!ready && w.parked) {
    w.at = w.lane_at[__builtin_ctz(w.parked)];
    fail(__builtin_ctz(w.parked), "lanes %#x wait here for others of the warp that left or wait elsewhere", w.parked);
  }
  int first = INT32_MAX;
  w.next_wait = INT32_MAX;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (ready >> lane & 1) first = std::min(first, w.lane_at[lane]);
  }
  w.running = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(ready >> lane & 1)) continue;
    if (w.lane_at[lane] == first) w.running |= 1u << lane;
    else w.next_wait = std::min(w.next_wait, w.lane_at[lane]);
  }
  w.at = first;
}

void Paths::branch(Warp& w, const Instruction& in) {
  const uint32_t* index = w.from<uint32_t>(in.from[0]);
  for (int lane = 0; lane < kLanes; ++lane) {
    if (w.mask >> lane & 1)
      w.lane_at[lane] = launch_.targets[in.target + std::min<uint32_t>(index[lane], in.count - 1)];
    else if (w.running >> lane & 1) w.lane_at[lane] = w.at + 1;
  }
  select(w);
}

void Paths::leave(Warp& w) {
  w.live &= ~w.mask;
  // Who waits for these lanes looks again.
  w.parked = 0;
  part(w, w.mask, w.at, w.at + 1);
}

// Whether all wanted lanes are at this instruction; parks those that are until the others come.
bool Paths::gather(Warp& w, uint32_t wanted) {
  uint32_t here = w.mask;
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((w.parked >> lane & 1) && w.lane_at[lane] == w.at) here |= 1u << lane;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    if (w.mask >> lane & 1) w.lane_at[lane] = w.at;
    else if (w.running >> lane & 1) w.lane_at[lane] = w.at + 1;
  }
  if ((here & wanted) != wanted) {
    w.parked |= here;
    select(w);
    return false;
  }
  w.parked &= ~here;
  w.running = w.mask = wanted;
  return true;
}

void Paths::meeting(Warp& w, const Instruction& in) {
  const int lane = w.first_lane();
  const uint32_t wanted = in.member == kNoOperand ? w.live : w.from<uint32_t>(in.member)[lane];
  if (!(wanted >> lane & 1)) fail(lane, "a lane that is not in its mask %#x", wanted);
  if (wanted & ~w.live) fail(lane, "mask %#x names lanes that left", wanted & ~w.live);
  if (w.mask != wanted || w.mask != w.running) {
    if (!gather(w, wanted)) return;
    program_.handlers[w.at](w, in);
    return part(w, wanted, w.at + 1, w.at + 1);
  }
  program_.handlers[w.at](w, in);
  part(w, w.running, w.at + 1, w.at + 1);
}

void Paths::barrier(Warp& w, const Instruction& in) {
  if (!gather(w, w.live)) return;
  w.barrier = int(in.offset);
  w.barrier_threads = in.from[1] == ~0 ? int(launch_.threads) : int(w.from<uint32_t>(in.from[1])[w.first_lane()]);
  std::fill_n(w.lane_at, kLanes, ++w.at);
  w.running = 0;
}

}  // namespace

Program::Program(Launch& launch) : launch(launch) {
  for (uint64_t i = 0; i < launch.num_instructions; ++i) {
    flows.push_back(flow_of(launch.code[i]));
    handlers.push_back(find(launch.code[i]));
  }
}

int first_unknown(const Instruction* code, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const Flow flow = flow_of(code[i]);
    if ((flow == Flow::kPlain || flow == Flow::kMeeting) && !find(code[i])) return int(i);
  }
  return -1;
}

void run_warp(Program& program, Warp& w) { Paths(program).run(w); }

}  // namespace tts::ptx
