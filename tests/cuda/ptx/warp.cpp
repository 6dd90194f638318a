// Instructions in which the lanes of a warp work together.
#include <algorithm>

#include "checks.h"

namespace tts::ptx {
namespace {

void shuffle(Warp& w, const Instruction& in) {
  const uint32_t *a = w.from<uint32_t>(in.from[0]), *b = w.from<uint32_t>(in.from[1]);
  const uint32_t* c = w.from<uint32_t>(in.from[2]);
  uint32_t values[kLanes], inside[kLanes];
  lanes(w, [&](int lane) {
    const int segment = c[lane] >> 8 & 31, clamp = c[lane] & 31, by = b[lane] & 31;
    const int last = (lane & segment) | (clamp & ~segment);
    int source;
    switch (Variant(in.variant)) {
      case Variant::kUp: source = lane - by; break;
      case Variant::kDown: source = lane + by; break;
      case Variant::kBfly: source = lane ^ by; break;
      default: source = (lane & segment) | (by & ~segment);
    }
    inside[lane] = Variant(in.variant) == Variant::kUp ? source >= last : source <= last;
    if (!inside[lane]) source = lane;
    if (!(w.mask >> source & 1)) fail(lane, "shuffle from lane %d, which takes no part", source);
    values[lane] = a[source];
  });
  uint32_t *to = w.to<uint32_t>(in.to[0]), *valid = w.to<uint32_t>(in.to[1]);
  lanes(w, [&](int lane) {
    to[lane] = values[lane];
    valid[lane] = inside[lane];
  });
}

uint32_t ballot(const Warp& w, int32_t predicate, bool negated = false) {
  const uint32_t* values = w.from<uint32_t>(predicate);
  uint32_t hits = 0;
  for (int lane = 0; lane < kLanes; ++lane) hits |= uint32_t((values[lane] != 0) != negated) << lane;
  return hits & w.mask;
}

void vote(Warp& w, const Instruction& in) {
  const uint32_t hits = ballot(w, in.from[0], in.combine_negated);
  uint32_t result = hits;
  if (Variant(in.variant) == Variant::kAll) result = hits == w.mask;
  if (Variant(in.variant) == Variant::kAny) result = hits != 0;
  if (Variant(in.variant) == Variant::kUni) result = hits == w.mask || hits == 0;
  uint32_t* to = w.to<uint32_t>(in.to[0]);
  lanes(w, [&](int lane) { to[lane] = result; });
}

template <class T>
void reduce(Warp& w, const Instruction& in) {
  const T* a = w.from<T>(in.from[0]);
  T result = a[w.first_lane()];
  for (uint32_t rest = w.mask & (w.mask - 1); rest; rest &= rest - 1) {
    const T next = a[__builtin_ctz(rest)];
    switch (Variant(in.variant)) {
      case Variant::kAdd: result += next; break;
      case Variant::kMin: result = std::min(result, next); break;
      case Variant::kMax: result = std::max(result, next); break;
      case Variant::kAnd: result &= next; break;
      case Variant::kOr: result |= next; break;
      default: result ^= next;
    }
  }
  T* to = w.to<T>(in.to[0]);
  lanes(w, [&](int lane) { to[lane] = result; });
}

void match(Warp& w, const Instruction& in) {
  uint64_t values[kLanes];
  uint32_t equals[kLanes];
  read_cells(w, in.from[0], type_bytes(in.type), values);
  const bool all = Variant(in.variant) == Variant::kAll;
  lanes(w, [&](int lane) {
    equals[lane] = 0;
    lanes(w, [&](int other) { equals[lane] |= uint32_t(values[other] == values[lane]) << other; });
    if (all && equals[lane] != w.mask) equals[lane] = 0;
  });
  uint32_t *to = w.to<uint32_t>(in.to[0]), *hit = w.to<uint32_t>(in.to[1]);
  lanes(w, [&](int lane) {
    to[lane] = equals[lane];
    hit[lane] = equals[lane] != 0;
  });
}

void active_mask(Warp& w, const Instruction& in) {
  uint32_t* to = w.to<uint32_t>(in.to[0]);
  lanes(w, [&](int lane) { to[lane] = w.mask; });
}

// The lanes' meeting is all there is to it.
void meet(Warp&, const Instruction&) {}

// Lane l gets of each 8x8 matrix the two elements (l / 4, l % 4 * 2) on, of the matrix or its transpose.
void load_matrices(Warp& w, const Instruction& in) {
  if (w.mask != kAllLanes) fail(w.first_lane(), "ldmatrix by a part of a warp");
  const uint32_t addressing = in.count == 4 ? kAllLanes : (1u << 8 * in.count) - 1;
  Access access{in, Kind::kLoad, 16, {}, {}};
  read_cells(w, in.from[0], in.address_bytes, access.at);
  for (auto& at : access.at) at += in.offset;
  w.mask = addressing;
  check_shared(w, access);
  w.mask = kAllLanes;
  uint64_t values[kLanes];
  for (int matrix = 0; matrix < in.count; ++matrix) {
    char* const* rows = access.place + 8 * matrix;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int major = lane / 4, minor = lane % 4 * 2;
      uint16_t pair[2];
      for (int i = 0; i < 2; ++i) {
        const int row = has(in, kTrans) ? minor + i : major, column = has(in, kTrans) ? major : minor + i;
        memcpy(&pair[i], rows[row] + 2 * column, 2);
      }
      values[lane] = pair[0] | uint32_t(pair[1]) << 16;
    }
    write_cells(w, in.to[matrix], 4, values);
  }
}

template <bool half>
float element(uint32_t pair, int i) {
  const uint16_t bits = pair >> (16 * i);
  if constexpr (half) {
    _Float16 value;
    memcpy(&value, &bits, 2);
    return float(value);
  }
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

// Both elements of every lane's register.
template <bool half>
void elements(const Warp& w, int32_t operand, float (&first)[kLanes], float (&second)[kLanes]) {
  const uint32_t* pairs = w.from<uint32_t>(operand);
  for (int lane = 0; lane < kLanes; ++lane) {
    first[lane] = element<half>(pairs[lane], 0);
    second[lane] = element<half>(pairs[lane], 1);
  }
}

typedef float Row __attribute__((vector_size(32)));

// d = a b + c: a [16, k], b [k, 8], c and d [16, 8]. Products are exact; sums are float32, in the order of k.
template <bool half, int k>
void multiply(Warp& w, const Instruction& in) {
  if (w.mask != kAllLanes) fail(w.first_lane(), "mma by a part of a warp");
  float a[16][k], first[kLanes], second[kLanes];
  Row b[k], sums[16];
  for (int part = 0; part < k / 4; ++part) {
    elements<half>(w, in.from[part], first, second);
    for (int lane = 0; lane < kLanes; ++lane) {
      float* to = &a[lane / 4 + part % 2 * 8][part / 2 * 8 + lane % 4 * 2];
      to[0] = first[lane], to[1] = second[lane];
    }
  }
  for (int part = 0; part < k / 8; ++part) {
    elements<half>(w, in.from[4 + part], first, second);
    for (int lane = 0; lane < kLanes; ++lane) {
      Row* to = &b[part * 8 + lane % 4 * 2];
      to[0][lane / 4] = first[lane], to[1][lane / 4] = second[lane];
    }
  }
  for (int i = 0; i < 4; ++i) {
    const float* c = w.from<float>(in.from[6 + i]);
    for (int lane = 0; lane < kLanes; ++lane) sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = c[lane];
  }
  for (int row = 0; row < 16; ++row) {
    Row sum = sums[row];
    for (int i = 0; i < k; ++i) sum += a[row][i] * b[i];
    sums[row] = sum;
  }
  for (int i = 0; i < 4; ++i) {
    float* to = w.to<float>(in.to[i]);
    for (int lane = 0; lane < kLanes; ++lane) to[lane] = sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

Handler find_multiply(const Instruction& in) {
  const bool half = Type(in.source_type) == Type::kF16;
  if (has(in, kK8)) return half ? multiply<true, 8> : multiply<false, 8>;
  return half ? multiply<true, 16> : multiply<false, 16>;
}

}  // namespace

Handler find_warp(const Instruction& in) {
  switch (Op(in.op)) {
    case Op::kActivemask: return active_mask;
    case Op::kBarwarp: return meet;
    case Op::kLdmatrix: return load_matrices;
    case Op::kMatch: return match;
    case Op::kMma: return find_multiply(in);
    case Op::kRedux: return is_signed(in.type) ? reduce<int32_t> : reduce<uint32_t>;
    case Op::kShfl: return shuffle;
    case Op::kVote: return vote;
    default: return nullptr;
  }
}

}  // namespace tts::ptx
