// What the lanes of a warp do together: each leaves its operands, the last to arrive does the work for all.
#include "cuda/ptx.h"
#include "memory.h"
#include "meter.h"
#include "runtime.h"
#include "shadow.h"

namespace simt {
namespace {

using Complete = void (*)(Fiber* lanes, unsigned mask);

template <class Body>
void for_lanes(unsigned mask, Body body) {
  for (; mask != 0; mask &= mask - 1) body(__builtin_ctz(mask));
}

std::string lane_at(const Fiber& f) {
  char mask[16];
  snprintf(mask, sizeof mask, "0x%08x", f.mask);
  return "lane " + std::to_string(f.lane) + " is at " + name_of(f.op) + " with mask " + mask;
}

void expect_same(const Fiber& a, const Fiber& b) {
  if (a.op != b.op || a.mask != b.mask) fail("divergent: " + lane_at(a) + ", " + lane_at(b));
}

void meet(Op op, unsigned mask, Complete complete) {
  Fiber& me = *current;
  Warp& warp = warps[me.warp];
  Fiber* lanes = &fibers[me.warp * kLanes];
  const unsigned bit = 1u << me.lane;
  me.op = op;
  me.mask = mask;
  if ((mask & bit) == 0) fail(lane_at(me) + ", which leaves itself out");
  if ((mask & ~warp.alive) != 0)
    fail(lane_at(me) + ", but lane " + std::to_string(__builtin_ctz(mask & ~warp.alive)) + " has exited");
  if (warp.meeting == 0) {
    warp.op = op;
    warp.mask = mask;
    warp.mixed = false;
  } else if (warp.op != op || warp.mask != mask) {
    for_lanes(warp.meeting & mask, [&](int l) { expect_same(lanes[l], me); });
    warp.mixed = true;
  }
  warp.meeting |= bit;
  if ((mask & ~warp.meeting) != 0) return block_current();
  if (warp.mixed) for_lanes(mask, [&](int l) { expect_same(lanes[l], me); });
  warp.meeting &= ~mask;
  complete(lanes, mask);
  if (options.counts && mask == warp.alive) meter_flush(me.warp);
  release(me.warp, mask & ~bit);
}

// The lane whose value lane l gets.
int source_lane(Op op, int l, const Exchange& mine) {
  const int width = mine.width, first = l & ~(width - 1), end = first + width;
  int from = l;
  switch (op) {
    case Op::kShuffleIndex: return first + (mine.lane & (width - 1));
    case Op::kShuffleXor:
      from = l ^ mine.lane;
      // Lanes of an earlier segment may be read, of a later one not.
      return from < end ? from : l;
    case Op::kShuffleDown: from = l + mine.lane; return from < end ? from : l;
    default: from = l - mine.lane; return from >= first ? from : l;
  }
}

void complete_shuffle(Fiber* lanes, unsigned mask) {
  uint64_t results[kLanes];
  for_lanes(mask, [&](int l) {
    const int from = source_lane(lanes[l].op, l, lanes[l].exchange);
    if ((mask >> from & 1) == 0) fail(lane_at(lanes[l]) + " and reads lane " + std::to_string(from));
    results[l] = lanes[from].exchange.bits;
  });
  for_lanes(mask, [&](int l) { lanes[l].exchange.bits = results[l]; });
}

void complete_vote(Fiber* lanes, unsigned mask) {
  uint64_t ballot = 0;
  for_lanes(mask, [&](int l) { ballot |= lanes[l].exchange.bits << l; });
  for_lanes(mask, [&](int l) { lanes[l].exchange.bits = ballot; });
}

// Element (row, column) of matrix m, whose rows the lanes 8m .. 8m + 7 brought.
uint32_t element(const Fiber* lanes, int m, int row, int column) {
  uint16_t bits;
  memcpy(&bits, lanes[8 * m + row].exchange.row + 2 * column, sizeof bits);
  return bits;
}

template <bool transposed>
void complete_load(Fiber* lanes, unsigned) {
  for (int l = 0; l < int(kLanes); ++l)
    for (int m = 0; m < 4; ++m) {
      const int major = l / 4, minor = l % 4 * 2;
      const uint32_t low = transposed ? element(lanes, m, minor, major) : element(lanes, m, major, minor);
      const uint32_t high = transposed ? element(lanes, m, minor + 1, major) : element(lanes, m, major, minor + 1);
      lanes[l].exchange.a[m] = low | high << 16;
    }
}

float from_bfloat16(uint32_t bits) {
  const uint32_t wide = bits << 16;
  float x;
  memcpy(&x, &wide, sizeof x);
  return x;
}
float from_half(uint32_t bits) { return float_of_half(uint16_t(bits)); }

template <float (*to_float)(uint32_t)>
void complete_multiply(Fiber* lanes, unsigned) {
  // Products of 16-bit operands are exact in double; the sum is rounded once, to float.
  double a[16][16], b[16][8], c[16][8];
  for (int l = 0; l < int(kLanes); ++l) {
    const Exchange& x = lanes[l].exchange;
    const int g = l / 4, t = l % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i & 1), column = t + 8 * (i >> 1);
      a[row][column] = to_float(x.a[i] & 0xffff);
      a[row][column + 1] = to_float(x.a[i] >> 16);
      c[g + 8 * (i >> 1)][t + (i & 1)] = x.c[i];
    }
    for (int i = 0; i < 2; ++i) {
      b[t + 8 * i][g] = to_float(x.b[i] & 0xffff);
      b[t + 8 * i + 1][g] = to_float(x.b[i] >> 16);
    }
  }
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
  for (int l = 0; l < int(kLanes); ++l)
    for (int i = 0; i < 4; ++i) lanes[l].exchange.c[i] = float(c[l / 4 + 8 * (i >> 1)][l % 4 * 2 + (i & 1)]);
}

}  // namespace

const char* name_of(Op op) {
  static const char* const kNames[] = {"__syncwarp",     "__shfl_sync",    "__shfl_xor_sync", "__shfl_down_sync",
                                       "__shfl_up_sync", "__ballot_sync",  "__any_sync",      "__all_sync",
                                       "ldmatrix",       "ldmatrix.trans", "mma bf16",        "mma f16",
                                       "wgmma bf16",     "wgmma f16",      "wgmma.wait_group"};
  return kNames[int(op)];
}

void sync_warp(unsigned mask) {
  meet(Op::kSyncWarp, mask, [](Fiber* lanes, unsigned together) { shadow_sync_warp(lanes->warp, together); });
}

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int lane, int width) {
  Exchange& mine = current->exchange;
  mine.bits = bits;
  mine.lane = lane;
  mine.width = width;
  meet(Op(int(Op::kShuffleIndex) + int(kind)), mask, complete_shuffle);
  return mine.bits;
}

unsigned vote(Vote kind, unsigned mask, bool predicate) {
  Exchange& mine = current->exchange;
  mine.bits = predicate ? 1 : 0;
  meet(Op(int(Op::kBallot) + int(kind)), mask, complete_vote);
  return unsigned(mine.bits);
}

Words load_matrices(uint32_t row, bool transposed) {
  Exchange& mine = current->exchange;
  mine.row = check_matrix_row(row, __builtin_return_address(0));
  if (transposed) meet(Op::kLoadTransposed, kAllLanes, complete_load<true>);
  else meet(Op::kLoadMatrices, kAllLanes, complete_load<false>);
  return {{mine.a[0], mine.a[1], mine.a[2], mine.a[3]}};
}

Floats multiply(Floats c, Words a, uint32_t b0, uint32_t b1, bool half) {
  Exchange& mine = current->exchange;
  memcpy(mine.a, a.x, sizeof mine.a);
  memcpy(mine.c, c.x, sizeof mine.c);
  mine.b[0] = b0;
  mine.b[1] = b1;
  if (half) meet(Op::kMultiplyHalf, kAllLanes, complete_multiply<from_half>);
  else meet(Op::kMultiplyBFloat16, kAllLanes, complete_multiply<from_bfloat16>);
  return {{mine.c[0], mine.c[1], mine.c[2], mine.c[3]}};
}

}  // namespace simt
