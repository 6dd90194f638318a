// The state that instructions act on: a launch, its current block, that block's warps.
#pragma once
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "instruction.h"

namespace tts::ptx {

constexpr int kLanes = 32;
constexpr uint32_t kAllLanes = 0xFFFFFFFF;
// Where generic addresses of these spaces start: far from any address of the host's memory.
constexpr uint64_t kSharedWindow = uint64_t(1) << 60, kLocalWindow = uint64_t(2) << 60;
constexpr uint64_t kParamWindow = uint64_t(3) << 60;
// Shared memory starts here (operands.py knows), so that a null pointer is none of it.
constexpr uint64_t kSharedBase = 1024;

// What a kernel may not do; lane is the first that did it, or -1.
struct Fault {
  std::string what;
  int lane;
};

// Of one instruction. counts.py has the same names.
struct LineCounts {
  uint64_t executed, requests, sectors, bytes, wide, shared_requests, wavefronts, ideal_wavefronts, local;
};
struct Allocation {
  const char* name;
  uint64_t begin, end, writable;
};
// Bytes, by allocation.
struct Traffic {
  uint64_t loads, stores, atomics;
};

// Everything the caller gives. module.py reads the fields from here, as those of the structs above.
struct Launch {
  const Instruction* code;
  const int32_t* targets;
  const char* constants;
  const char* params;
  const Allocation* allocations;
  LineCounts* counts;
  Traffic* traffic;
  char* message;
  uint64_t num_instructions, register_bytes, local_bytes, params_bytes, num_allocations, message_bytes;
  uint64_t shared_bytes, max_executed, seed;
  uint32_t grid[3];
  uint32_t threads;
  int32_t late;
  // Written when a kernel faults.
  int32_t fault_at, other_at;
};

struct Warp;
using Handler = void (*)(Warp&, const Instruction&);

// A copy under way from global to shared memory.
struct PendingCopy {
  int lane, group, at;
  uint64_t to, from;
  int bytes, live_bytes;
};

struct Block {
  Launch* launch;
  uint32_t index[3];
  std::vector<char> shared;
  // By byte of shared memory: epoch << 8 | who, of the last write and read.
  std::vector<uint32_t> writers, readers;
  // By 16 bytes: the instructions that did those, for messages.
  std::vector<int32_t> written_at, read_at;
  // By 4 bytes: copies that have not landed.
  std::vector<uint8_t> pending;
  // Grows at every barrier of the block and never shrinks, so that no shadow needs clearing.
  uint32_t epoch = 1, first_epoch = 1;
  std::vector<Warp> warps;
};

struct Warp {
  Block* block;
  int index;
  char* registers;
  const char* constants;
  // Lanes: of the current instruction, of the current path, not yet left, waiting at a .sync for others.
  uint32_t mask, running, live, parked;
  int at, next_wait;
  int lane_at[kLanes];
  uint32_t carry[kLanes];
  // The barrier where it waits, or -1, and the threads that one waits for.
  int barrier, barrier_threads;
  std::vector<PendingCopy> copies;
  int groups[kLanes];
  std::vector<char> local;

  template <class T>
  T* to(int32_t operand) {
    return reinterpret_cast<T*>(registers + operand);
  }
  template <class T>
  const T* from(int32_t operand) const {
    return reinterpret_cast<const T*>(operand >= 0 ? registers + operand : constants + ~operand);
  }
  int first_lane() const { return __builtin_ctz(mask); }
};

inline bool has(const Instruction& in, Modifier m) { return in.modifiers >> m & 1; }
inline bool is(const Instruction& in, Op op) { return in.op == uint16_t(op); }

// Calls body(lane) for the lanes of the instruction.
template <class Body>
inline void lanes(const Warp& w, Body body) {
  if (w.mask == kAllLanes) {
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; ++lane) body(lane);
  } else {
    for (uint32_t rest = w.mask; rest; rest &= rest - 1) body(__builtin_ctz(rest));
  }
}

template <class T>
void read_cells(const Warp& w, int32_t operand, uint64_t* values) {
  const T* cells = w.from<T>(operand);
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = cells[lane];
}
inline void read_cells(const Warp& w, int32_t operand, int bytes, uint64_t* values) {
  if (bytes == 8) return read_cells<uint64_t>(w, operand, values);
  if (bytes == 4) return read_cells<uint32_t>(w, operand, values);
  read_cells<uint16_t>(w, operand, values);
}
template <class T>
void write_cells(Warp& w, int32_t operand, const uint64_t* values) {
  T* cells = w.to<T>(operand);
  lanes(w, [&](int lane) { cells[lane] = T(values[lane]); });
}
inline void write_cells(Warp& w, int32_t operand, int bytes, const uint64_t* values) {
  if (bytes == 8) return write_cells<uint64_t>(w, operand, values);
  if (bytes == 4) return write_cells<uint32_t>(w, operand, values);
  write_cells<uint16_t>(w, operand, values);
}

inline int type_bytes(uint8_t type) {
  static constexpr int kBytes[] = {0, 1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 2, 2, 4, 8, 4, 4, 4};
  return kBytes[type];
}
inline bool is_signed(uint8_t type) {
  const auto t = Type(type);
  return t == Type::kS8 || t == Type::kS16 || t == Type::kS32 || t == Type::kS64;
}

// Each returns null for an instruction that is not its own.
Handler find_integer(const Instruction& in);
Handler find_bits(const Instruction& in);
Handler find_float(const Instruction& in);
Handler find_convert(const Instruction& in);
Handler find_memory(const Instruction& in);
Handler find_warp(const Instruction& in);

// Lets the copies of the warp's active lanes land, all but those of the newest `pending` groups.
void land_copies(Warp& w, int pending_groups);

}  // namespace tts::ptx
