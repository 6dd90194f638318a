#include "checks.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace tts::ptx {
namespace {

// Who touched a byte: a warp plainly, a warp atomically (by kAtomics on), several of them.
constexpr uint32_t kAtomics = 32, kManyReaders = 64, kManyAtomics = 65;

uint32_t who_of(uint32_t stamp) { return stamp & 255; }

// Sectors of 32 bytes that the lanes touch; an access of at most 16 bytes lies in one.
int count_sectors(const Warp& w, const Access& access) {
  uint64_t sectors[kLanes];
  int n = 0;
  bool sorted = true;
  for (uint32_t rest = w.mask; rest; rest &= rest - 1) {
    sectors[n] = access.at[__builtin_ctz(rest)] / 32;
    sorted &= n == 0 || sectors[n - 1] <= sectors[n];
    ++n;
  }
  if (!sorted) std::sort(sectors, sectors + n);
  return std::unique(sectors, sectors + n) - sectors;
}

// Passes over the 32 banks of 4 bytes that the lanes need. Aligned accesses of one size meet in all their banks or in
// none, so it is the most distinct places in one slot of that size.
int bank_passes(const Access& access, uint32_t mask) {
  const int shift = access.bytes <= 4 ? 2 : __builtin_ctz(access.bytes);
  const uint64_t slots = 128 >> shift;
  uint64_t places[kLanes][kLanes];
  uint8_t used[kLanes] = {};
  int most = 0;
  for (; mask; mask &= mask - 1) {
    const uint64_t place = access.at[__builtin_ctz(mask)] >> shift, slot = place & (slots - 1);
    int i = 0;
    while (i < used[slot] && places[slot][i] != place) ++i;
    if (i < used[slot]) continue;
    places[slot][used[slot]++] = place;
    most = std::max<int>(most, used[slot]);
  }
  return most;
}

// Accesses of 8 bytes go by halves of a warp, of 16 by quarters.
void count_banks(const Warp& w, const Access& access, LineCounts& counts) {
  const int together = access.bytes <= 4 ? kLanes : 128 / access.bytes;
  for (int begin = 0; begin < kLanes; begin += together) {
    const uint32_t phase = w.mask & (kAllLanes >> (kLanes - together)) << begin;
    if (!phase) continue;
    counts.wavefronts += bank_passes(access, phase);
    ++counts.ideal_wavefronts;
  }
}

const Allocation* find_allocation(const Launch& launch, uint64_t at) {
  for (uint64_t i = 0; i < launch.num_allocations; ++i) {
    const auto& a = launch.allocations[i];
    if (at >= a.begin && at < a.end) return &a;
  }
  return nullptr;
}

// The allocation with the nearest end or begin, for a message.
const Allocation* nearest_allocation(const Launch& launch, uint64_t at) {
  const Allocation* nearest = nullptr;
  uint64_t least = 1 << 24;
  for (uint64_t i = 0; i < launch.num_allocations; ++i) {
    const auto& a = launch.allocations[i];
    const uint64_t distance = at < a.begin ? a.begin - at : at - a.end;
    if (distance < least) least = distance, nearest = &a;
  }
  return nearest;
}

[[noreturn]] void fail_bounds(const Launch& launch, const Access& access, int lane) {
  const uint64_t at = access.at[lane];
  const auto* a = find_allocation(launch, at);
  if (!a) a = nearest_allocation(launch, at);
  if (!a) fail(lane, "out of bounds: %s of %d bytes at %#llx, near no allocation", verb(access.kind), access.bytes, at);
  const long long from_begin = (long long)(at - a->begin);
  fail(lane, "out of bounds: %s of %d bytes at %+lld of %s (%lld bytes)", verb(access.kind), access.bytes, from_begin,
       a->name, (long long)(a->end - a->begin));
}

void check_alignment(const Access& access, int lane) {
  // Sizes are powers of 2.
  const int over = access.at[lane] & (access.bytes - 1);
  if (over == 0) return;
  fail(lane, "misaligned: %s of %d bytes, address %d past a multiple", verb(access.kind), access.bytes, over);
}

[[noreturn]] void fail_race(Warp& w, int lane, Kind kind, const char* other, uint32_t stamp, int other_at) {
  w.block->launch->other_at = other_at;
  const uint32_t who = who_of(stamp);
  const std::string by = who >= kManyReaders ? "several warps" : "warp " + std::to_string(who % kAtomics);
  fail(lane, "race: %s of shared memory by warp %d after a %s by %s, no barrier between", verb(kind), w.index, other,
       by.c_str());
}

// Checks a byte's stamps and renews them.
void touch_byte(Warp& w, int lane, Kind kind, uint64_t byte) {
  Block& b = *w.block;
  uint32_t &writer = b.writers[byte], &reader = b.readers[byte];
  const uint32_t me = w.index, by = who_of(writer), now = b.epoch << 8;
  const bool written = writer >= now, read = reader >= now, mine = by == me || by == me + kAtomics;
  if (kind == Kind::kLoad) {
    if (written && !mine) fail_race(w, lane, kind, "store", writer, b.written_at[byte / 16]);
    reader = now | (read && who_of(reader) != me ? kManyReaders : me);
    return;
  }
  const bool atomics = kind == Kind::kAtomic && by >= kAtomics;
  if (written && !mine && !atomics) fail_race(w, lane, kind, "store", writer, b.written_at[byte / 16]);
  if (read && who_of(reader) != me) fail_race(w, lane, kind, "load", reader, b.read_at[byte / 16]);
  if (kind == Kind::kStore || (written && by == me)) {
    writer = now | me;
  } else {
    writer = now | (written && by != me + kAtomics ? kManyAtomics : me + kAtomics);
  }
}

// The usual case, quick enough for every byte: nobody else was there since the last barrier. False if not so.
template <int bytes>
bool touch_quickly(Warp& w, Kind kind, uint64_t first) {
  Block& b = *w.block;
  uint32_t *writers = &b.writers[first], *readers = &b.readers[first];
  const uint32_t now = b.epoch << 8, mine = now | uint32_t(w.index), first_stamp = b.first_epoch << 8;
  uint32_t alien = 0, unwritten = 0;
  for (int i = 0; i < bytes; ++i) {
    alien |= (writers[i] != mine) & (writers[i] >= now);
    alien |= (readers[i] != mine) & (readers[i] >= now);
    unwritten |= writers[i] < first_stamp;
  }
  if (alien | (unwritten & (kind == Kind::kLoad))) return false;
  uint32_t* stamps = kind == Kind::kLoad ? readers : writers;
  for (int i = 0; i < bytes; ++i) stamps[i] = mine;
  return true;
}

template <int bytes>
void touch(Warp& w, int lane, Kind kind, int instruction, uint64_t first) {
  Block& b = *w.block;
  if (kind == Kind::kAtomic || !touch_quickly<bytes>(w, kind, first)) {
    for (int i = 0; i < bytes; ++i) {
      if (kind != Kind::kStore && b.writers[first + i] < b.first_epoch << 8) {
        fail(lane, "uninitialised: %s of shared memory at +%llu", verb(kind), first);
      }
      touch_byte(w, lane, kind, first + i);
    }
  }
  (kind == Kind::kLoad ? b.read_at : b.written_at)[first / 16] = instruction;
}

void check_shared_bounds(const Block& b, const Access& access, int lane, uint64_t at, int bytes) {
  const uint64_t size = b.launch->shared_bytes;
  if (at < size && at + bytes <= size) return;
  fail(lane, "out of bounds: %s of %d bytes at %+lld of shared memory (%llu bytes)", verb(access.kind), bytes,
       (long long)at, (unsigned long long)size);
}

// One lane's access, or of a vector one element.
template <int bytes>
void check_piece(Warp& w, const Access& access, int lane, uint64_t at) {
  const Block& b = *w.block;
  check_shared_bounds(b, access, lane, at, bytes);
  for (int i = 0; i < bytes; i += 4) {
    if (b.pending[(at + i) / 4]) fail(lane, "copy under way: %s of shared memory at +%llu", verb(access.kind), at);
  }
  touch<bytes>(w, lane, access.kind, w.at, at);
}

// nvcc rounds loads up to whole vectors; what it does not read of one may be anything.
void check_elements(Warp& w, const Access& access, int lane, uint64_t at) {
  const int bytes = access.bytes / access.in.count;
  for (int i = 0; i < access.in.count; ++i) {
    if (access.in.unread >> i & 1) continue;
    if (bytes == 8) check_piece<8>(w, access, lane, at + 8 * i);
    if (bytes == 4) check_piece<4>(w, access, lane, at + 4 * i);
    if (bytes == 2) check_piece<2>(w, access, lane, at + 2 * i);
    if (bytes == 1) check_piece<1>(w, access, lane, at + i);
  }
}

}  // namespace

const char* verb(Kind kind) { return kind == Kind::kLoad ? "load" : kind == Kind::kStore ? "store" : "atomic"; }

void fail(int lane, const char* format, ...) {
  char text[512];
  va_list values;
  va_start(values, format);
  vsnprintf(text, sizeof text, format, values);
  va_end(values);
  throw Fault{text, lane};
}

void check_global(Warp& w, Access& access) {
  Launch& launch = *w.block->launch;
  const Allocation* a = nullptr;
  lanes(w, [&](int lane) {
    check_alignment(access, lane);
    const uint64_t at = access.at[lane];
    if (!a || at < a->begin || at >= a->end) a = find_allocation(launch, at);
    if (!a || at + access.bytes > a->end) fail_bounds(launch, access, lane);
    if (!a->writable && access.kind != Kind::kLoad) fail(lane, "%s to %s, an input", verb(access.kind), a->name);
    Traffic& traffic = launch.traffic[a - launch.allocations];
    (access.kind == Kind::kLoad    ? traffic.loads
     : access.kind == Kind::kStore ? traffic.stores
                                   : traffic.atomics) += access.bytes;
    access.place[lane] = reinterpret_cast<char*>(at);
  });
  // Constants come through a cache of their own.
  if (Space(access.in.space) == Space::kConst) return;
  LineCounts& counts = launch.counts[w.at];
  const int active = __builtin_popcount(w.mask);
  ++counts.requests;
  counts.bytes += active * access.bytes;
  counts.sectors += count_sectors(w, access);
  if (access.bytes == 16) counts.wide += active;
}

template <int bytes>
void check_lanes(Warp& w, Access& access) {
  lanes(w, [&](int lane) {
    check_alignment(access, lane);
    const uint64_t at = access.at[lane] - kSharedBase;
    if (access.in.unread) check_elements(w, access, lane, at);
    else check_piece<bytes>(w, access, lane, at);
    access.place[lane] = w.block->shared.data() + at;
  });
}

void check_shared(Warp& w, Access& access) {
  switch (access.bytes) {
    case 1: check_lanes<1>(w, access); break;
    case 2: check_lanes<2>(w, access); break;
    case 4: check_lanes<4>(w, access); break;
    case 8: check_lanes<8>(w, access); break;
    default: check_lanes<16>(w, access);
  }
  LineCounts& counts = w.block->launch->counts[w.at];
  ++counts.shared_requests;
  count_banks(w, access, counts);
}

void check_landing(Warp& w, int lane, int at_instruction, uint64_t at, int bytes) {
  const auto touch_all = bytes == 16 ? touch<16> : bytes == 8 ? touch<8> : touch<4>;
  touch_all(w, lane, Kind::kStore, at_instruction, at - kSharedBase);
}

}  // namespace tts::ptx
