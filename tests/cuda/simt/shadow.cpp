#include "shadow.h"

#include <cstring>

#include "runtime.h"

namespace simt {
namespace {

// Time is the number of barriers and warp synchronisations so far. What happened before block_start belongs to an
// earlier block, so that a new block need not clear anything.
uint32_t now = 1, block_start = 1, last_barrier = 1;

enum class Writer : uint8_t { kStore, kAtomic, kCopying };
// Not under AddressSanitizer, where plain accesses are not reported and most bytes would seem unwritten.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kComplete = false;
#else
constexpr bool kComplete = true;
#endif

constexpr uint16_t kManyWarps = 0xffff;
// With the number of the warp: several of its lanes.
constexpr uint16_t kManyLanes = 0x8000;

struct Cell {
  uint32_t written, read;
  // Threads. A reader may also be kManyLanes | warp, or kManyWarps.
  uint16_t writer, reader;
  Writer kind;
  // Of a word: its bytes have cells of their own.
  bool split;
};

// Of each word, and of each byte where a word is split.
Cell words[kMaxSharedBytes / 4], bytes[kMaxSharedBytes / 4][4];
alignas(1024) unsigned char memory[kMaxSharedBytes];

// When all lanes of a warp last met, and two of them.
uint32_t all_met[kMaxThreads / kLanes], pair_met[kMaxThreads / kLanes][kLanes][kLanes];

// When a thread last published what it wrote, and when it last did so before the last barrier.
uint32_t published[kMaxThreads], settled[kMaxThreads];

struct Toucher {
  unsigned thread, warp, lane;

  bool after(uint32_t time, unsigned other) const {
    if (time < last_barrier || other == thread) return true;
    if (other / kLanes != warp) return false;
    return time < all_met[warp] || time < pair_met[warp][lane][other % kLanes];
  }
  bool after_reads(const Cell& c) const {
    if (c.read < last_barrier) return true;
    if (c.reader == kManyWarps) return false;
    if ((c.reader & kManyLanes) == 0) return after(c.read, c.reader);
    return (c.reader & ~kManyLanes) == warp && c.read < all_met[warp];
  }
};

[[noreturn]] void fail_unready(const Cell& c, uint32_t offset) {
  const std::string what = " of shared memory at +" + std::to_string(offset);
  if (c.written < block_start) fail("uninitialised load" + what);
  fail("access" + what + " while the copy that thread " + std::to_string(c.writer) + " started is under way");
}

void report(const char* what, unsigned other, const char* before, uint32_t offset) {
  const std::string who = other == kManyWarps  ? "several warps"
                          : other & kManyLanes ? "lanes of warp " + std::to_string(other & ~kManyLanes)
                                               : "thread " + std::to_string(other);
  note_race(std::string("race: ") + what + " at +" + std::to_string(offset) + " of shared memory, which " + who +
            before + ", with no barrier between");
}

void note_read(Cell& c, const Toucher& me) {
  if (me.after_reads(c)) c.reader = uint16_t(me.thread);
  else if (c.reader == kManyWarps ||
           ((c.reader & kManyLanes) != 0 ? c.reader & ~kManyLanes : c.reader / kLanes) != me.warp)
    c.reader = kManyWarps;
  else c.reader = uint16_t(kManyLanes | me.warp);
  c.read = now;
}

void note_write(Cell& c, const Toucher& me, Writer kind) {
  c.written = now;
  c.writer = uint16_t(me.thread);
  c.kind = kind;
}

void touch(Cell& c, const Toucher& me, Access access, uint32_t offset) {
  const bool fresh = c.written < block_start, loads = access != Access::kStore;
  if ((fresh && loads) || (!fresh && c.kind == Writer::kCopying)) fail_unready(c, offset);
  const bool atomic = access == Access::kAtomic;
  if (!(atomic && c.kind == Writer::kAtomic) && !me.after(c.written, c.writer))
    report(access == Access::kLoad ? "load" : "store", c.writer, " wrote", offset);
  if (access == Access::kLoad) return note_read(c, me);
  if (!me.after_reads(c)) report("store", c.reader, " read", offset);
  note_write(c, me, atomic ? Writer::kAtomic : Writer::kStore);
}

void split(uint32_t word) {
  if (words[word].split) return;
  for (Cell& byte : bytes[word]) byte = words[word];
  words[word].split = true;
}

Toucher me_now() { return {current->thread, current->warp, current->lane}; }

void touch_word(uint32_t word, const Toucher& me, Access access) {
  if (!words[word].split) return touch(words[word], me, access, 4 * word);
  for (uint32_t b = 0; b < 4; ++b) touch(bytes[word][b], me, access, 4 * word + b);
  if (access == Access::kLoad) return;
  words[word] = bytes[word][0];
  words[word].split = false;
}

void forget_everything() {
  memset(words, 0, sizeof words);
  memset(all_met, 0, sizeof all_met);
  memset(pair_met, 0, sizeof pair_met);
  memset(published, 0, sizeof published);
  memset(settled, 0, sizeof settled);
  now = 1;
}

}  // namespace

unsigned char* shadow_memory() { return memory; }

void shadow_start_block() {
  if (now > 0xf0000000u) forget_everything();
  block_start = last_barrier = ++now;
}

void shadow_barrier() {
  last_barrier = ++now;
  memcpy(settled, published, sizeof settled);
}

void shadow_sync_warp(unsigned warp, unsigned lanes) {
  ++now;
  if (lanes == warps[warp].alive) {
    all_met[warp] = now;
    return;
  }
  for (unsigned i = 0; i < kLanes; ++i)
    for (unsigned j = 0; j < kLanes; ++j)
      if (lanes >> i & lanes >> j & 1) pair_met[warp][i][j] = now;
}

void shadow_touch(Access access, uint32_t offset, uint32_t size) {
  if (!kComplete) return;
  const Toucher me = me_now();
  const uint32_t first = offset / 4;
  if (size >= 4) {
    for (uint32_t word = first; word < first + size / 4; ++word) touch_word(word, me, access);
    return;
  }
  split(first);
  for (uint32_t b = offset % 4; b < offset % 4 + size; ++b) touch(bytes[first][b], me, access, 4 * first + b);
}

void shadow_start_copy(uint32_t offset, uint32_t size) {
  shadow_touch(Access::kStore, offset, size);
  for (uint32_t word = offset / 4; word < (offset + size) / 4; ++word) words[word].kind = Writer::kCopying;
}

void shadow_publish() { published[current->thread] = ++now; }

void shadow_expect_published(uint32_t offset, uint32_t size) {
  if (!kComplete) return;
  for (uint32_t at = offset; at < offset + size; ++at) {
    const Cell& c = words[at / 4].split ? bytes[at / 4][at % 4] : words[at / 4];
    if (c.written >= settled[c.writer])
      fail("a product reads shared memory at +" + std::to_string(at) + ", which thread " + std::to_string(c.writer) +
           " wrote, without fence.proxy.async and a barrier between");
  }
}

void shadow_land_copy(uint32_t offset, uint32_t size) {
  const Toucher me = me_now();
  for (uint32_t word = offset / 4; word < (offset + size) / 4; ++word) note_write(words[word], me, Writer::kStore);
}

}  // namespace simt
