// Loads, stores, atomics and asynchronous copies.
#include <algorithm>

#include "checks.h"

namespace tts::ptx {
namespace {

Space space_of(uint64_t at) {
  switch (at >> 60) {
    case kSharedWindow >> 60: return Space::kShared;
    case kLocalWindow >> 60: return Space::kLocal;
    case kParamWindow >> 60: return Space::kParam;
  }
  return Space::kGlobal;
}
uint64_t window_of(Space space) {
  return space == Space::kShared  ? kSharedWindow
         : space == Space::kLocal ? kLocalWindow
         : space == Space::kParam ? kParamWindow
                                  : 0;
}

// Memory of the launch or of one lane, which is in bounds or not and nothing else.
void check_private(Warp& w, Access& access, Space space) {
  const Launch& launch = *w.block->launch;
  const uint64_t size = space == Space::kParam ? launch.params_bytes : launch.local_bytes;
  const char* name = space == Space::kParam ? "the parameters" : "local memory";
  lanes(w, [&](int lane) {
    const uint64_t at = access.at[lane];
    if (at % access.bytes) fail(lane, "misaligned: %s of %d bytes of %s", verb(access.kind), access.bytes, name);
    if (at >= size || at + access.bytes > size) {
      fail(lane, "out of bounds: %s at %+lld of %s (%llu bytes)", verb(access.kind), (long long)at, name, size);
    }
    access.place[lane] = space == Space::kParam ? const_cast<char*>(launch.params) + at : &w.local[lane * size + at];
  });
  if (space == Space::kLocal) launch.counts[w.at].local += __builtin_popcount(w.mask);
}

// Fills access.place after every check.
void resolve(Warp& w, Access& access) {
  const Instruction& in = access.in;
  read_cells(w, in.from[0], in.address_bytes, access.at);
  for (auto& at : access.at) at += in.offset;
  auto space = Space(in.space);
  if (space == Space::kGeneric) {
    space = space_of(access.at[w.first_lane()]);
    lanes(w, [&](int lane) {
      if (space_of(access.at[lane]) != space) fail(lane, "lanes of one generic access in different kinds of memory");
      access.at[lane] -= window_of(space);
    });
  }
  if (space == Space::kShared) return check_shared(w, access);
  if (space == Space::kLocal || space == Space::kParam) return check_private(w, access, space);
  check_global(w, access);
}

template <class T>
void load(Warp& w, const Instruction& in) {
  Access access{in, Kind::kLoad, int(sizeof(T)) * in.count, {}, {}};
  resolve(w, access);
  for (int i = 0; i < in.count; ++i) {
    // A narrow value fills a wider register, its sign extended.
    uint64_t values[kLanes];
    lanes(w, [&](int lane) {
      T value;
      memcpy(&value, access.place[lane] + i * sizeof(T), sizeof(T));
      values[lane] = uint64_t(value);
    });
    write_cells(w, in.to[i], in.to_bytes, values);
  }
}

template <class T>
void store(Warp& w, const Instruction& in) {
  Access access{in, Kind::kStore, int(sizeof(T)) * in.count, {}, {}};
  resolve(w, access);
  for (int i = 0; i < in.count; ++i) {
    uint64_t values[kLanes];
    read_cells(w, in.from[1 + i], in.from_bytes, values);
    lanes(w, [&](int lane) {
      const T value = T(values[lane]);
      memcpy(access.place[lane] + i * sizeof(T), &value, sizeof(T));
    });
  }
}

template <class T>
T combined(Variant variant, T old, T b, T c) {
  if constexpr (std::is_integral_v<T>) {
    switch (variant) {
      case Variant::kAnd: return old & b;
      case Variant::kOr: return old | b;
      case Variant::kXor: return old ^ b;
      case Variant::kInc: return old >= b ? 0 : old + 1;
      case Variant::kDec: return old == 0 || old > b ? b : old - 1;
      case Variant::kCas: return old == b ? c : old;
      default: break;
    }
  }
  switch (variant) {
    case Variant::kAdd: return old + b;
    case Variant::kMin: return std::min(old, b);
    case Variant::kMax: return std::max(old, b);
    default: return b;
  }
}

// Lane after lane.
template <class T>
void atomic(Warp& w, const Instruction& in) {
  Access access{in, Kind::kAtomic, int(sizeof(T)), {}, {}};
  resolve(w, access);
  const T *b = w.from<T>(in.from[1]), *c = w.from<T>(in.from[2]);
  T* to = w.to<T>(in.to[0]);
  const auto variant = Variant(in.variant);
  lanes(w, [&](int lane) {
    T old;
    memcpy(&old, access.place[lane], sizeof(T));
    const T next = combined(variant, old, b[lane], c[lane]);
    memcpy(access.place[lane], &next, sizeof(T));
    to[lane] = old;
  });
}

Handler find_atomic(const Instruction& in) {
  switch (Type(in.type)) {
    case Type::kB32:
    case Type::kU32: return atomic<uint32_t>;
    case Type::kS32: return atomic<int32_t>;
    case Type::kB64:
    case Type::kU64: return atomic<uint64_t>;
    case Type::kS64: return atomic<int64_t>;
    case Type::kF32: return Variant(in.variant) == Variant::kAdd ? atomic<float> : nullptr;
    case Type::kF64: return Variant(in.variant) == Variant::kAdd ? atomic<double> : nullptr;
    default: return nullptr;
  }
}

void mark_pending(Block& b, uint64_t to, int bytes, int change) {
  for (int i = 0; i < bytes; i += 4) b.pending[(to - kSharedBase + i) / 4] += change;
}

void land(Warp& w, const PendingCopy& copy) {
  Block& b = *w.block;
  check_landing(w, copy.lane, copy.at, copy.to, copy.bytes);
  char* to = b.shared.data() + (copy.to - kSharedBase);
  memset(to, 0, copy.bytes);
  memcpy(to, reinterpret_cast<const char*>(copy.from), copy.live_bytes);
  mark_pending(b, copy.to, copy.bytes, -1);
}

// from: the shared address, the global address, the bytes to read of it.
void copy(Warp& w, const Instruction& in) {
  Launch& launch = *w.block->launch;
  const int bytes = in.count;
  uint64_t sources[kLanes];
  read_cells(w, in.from[1], 8, sources);
  const uint32_t *live = w.from<uint32_t>(in.from[2]), active = w.mask;
  Access reads{in, Kind::kLoad, bytes, {}, {}};
  w.mask = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(active >> lane & 1)) continue;
    if (live[lane] != 0 && int(live[lane]) != bytes) fail(lane, "a copy of %u of %d bytes", live[lane], bytes);
    reads.at[lane] = sources[lane];
    if (live[lane]) w.mask |= 1u << lane;
  }
  if (w.mask) check_global(w, reads);
  w.mask = active;
  Access writes{in, Kind::kStore, bytes, {}, {}};
  resolve(w, writes);
  lanes(w, [&](int lane) {
    w.copies.push_back({lane, w.groups[lane], w.at, writes.at[lane], sources[lane], bytes, int(live[lane])});
    mark_pending(*w.block, writes.at[lane], bytes, 1);
    if (launch.late) return;
    land(w, w.copies.back());
    w.copies.pop_back();
  });
}

void commit(Warp& w, const Instruction&) {
  lanes(w, [&](int lane) { ++w.groups[lane]; });
}

void wait(Warp& w, const Instruction& in) { land_copies(w, has(in, kAllGroups) ? -1 : int(in.offset)); }

void convert_address(Warp& w, const Instruction& in) {
  uint64_t values[kLanes];
  read_cells(w, in.from[0], in.from_bytes, values);
  const uint64_t window = window_of(Space(in.space));
  const uint64_t shift = has(in, kTo) ? -window : window;
  for (auto& value : values) value += shift;
  write_cells(w, in.to[0], in.to_bytes, values);
}

void nothing(Warp&, const Instruction&) {}

template <template <class> class Move>
Handler for_moved(uint8_t type) {
  const bool sign = is_signed(type);
  switch (type_bytes(type)) {
    case 1: return sign ? Move<int8_t>::run : Move<uint8_t>::run;
    case 2: return sign ? Move<int16_t>::run : Move<uint16_t>::run;
    case 4: return sign ? Move<int32_t>::run : Move<uint32_t>::run;
    case 8: return Move<uint64_t>::run;
  }
  return nullptr;
}
template <class T>
struct Load {
  static constexpr Handler run = load<T>;
};
template <class T>
struct Store {
  static constexpr Handler run = store<T>;
};

}  // namespace

void land_copies(Warp& w, int pending_groups) {
  const auto lands = [&](const PendingCopy& c) {
    return (w.mask >> c.lane & 1) && c.group < w.groups[c.lane] - pending_groups;
  };
  for (const auto& c : w.copies) {
    if (lands(c)) land(w, c);
  }
  w.copies.erase(std::remove_if(w.copies.begin(), w.copies.end(), lands), w.copies.end());
}

Handler find_memory(const Instruction& in) {
  switch (Op(in.op)) {
    case Op::kLd: return for_moved<Load>(in.type);
    case Op::kSt: return for_moved<Store>(in.type);
    case Op::kAtom:
    case Op::kRed: return find_atomic(in);
    case Op::kCopy: return copy;
    case Op::kCommit: return commit;
    case Op::kWait: return wait;
    case Op::kCvta: return convert_address;
    case Op::kFence:
    case Op::kMembar:
    case Op::kNanosleep:
    case Op::kPrefetch: return nothing;
    default: return nullptr;
  }
}

}  // namespace tts::ptx
