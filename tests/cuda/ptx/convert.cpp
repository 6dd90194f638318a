// Conversions, comparisons, and 64 or 32 bits taken apart and put together.
#include <cfenv>
#include <cmath>
#include <limits>
#include <type_traits>

#include "machine.h"

namespace tts::ptx {
namespace {

template <class T>
T as(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
uint64_t bits_of(T value) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

// What a 16-bit float is worth.
float widen(uint64_t bits, Type type) {
  return type == Type::kBf16 ? as<float>(uint32_t(bits & 0xFFFF) << 16) : float(as<_Float16>(bits));
}
// Rounded to nearest, ties to even.
uint64_t narrow(float x, Type type) {
  if (type == Type::kF16 || type == Type::kF16x2) return bits_of(_Float16(x));
  const uint32_t bits = bits_of(x);
  return x != x ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

bool is_float(Type type) {
  return type == Type::kF64 || type == Type::kF32 || type == Type::kF16 || type == Type::kBf16;
}

double float_of(uint64_t bits, Type type) {
  return type == Type::kF64 ? as<double>(bits) : type == Type::kF32 ? as<float>(bits) : widen(bits, type);
}

// The value of the type's low bits, sign or zero extended.
uint64_t extended(uint64_t bits, uint8_t type) {
  const int unused = 64 - 8 * type_bytes(type);
  return is_signed(type) ? uint64_t(int64_t(bits << unused) >> unused) : bits << unused >> unused;
}

double to_integral(double x, const Instruction& in) {
  if (has(in, kRni)) return std::nearbyint(x);
  if (has(in, kRzi)) return std::trunc(x);
  if (has(in, kRmi)) return std::floor(x);
  return has(in, kRpi) ? std::ceil(x) : x;
}

// Out of range clamps; NaN gives 0, or the highest bit where 64 bits are on either side.
uint64_t integer_of(double x, const Instruction& in) {
  const int bits = 8 * type_bytes(in.type);
  if (x != x) return bits == 64 || Type(in.source_type) == Type::kF64 ? uint64_t(1) << (bits - 1) : 0;
  const bool sign = is_signed(in.type);
  const double end = std::ldexp(1.0, sign ? bits - 1 : bits), begin = sign ? -end : 0;
  if (x >= end) return sign ? (uint64_t(1) << (bits - 1)) - 1 : bits == 64 ? ~uint64_t(0) : (uint64_t(1) << bits) - 1;
  if (x <= begin) return sign ? -(uint64_t(1) << (bits - 1)) : 0;
  return sign ? uint64_t(int64_t(x)) : uint64_t(x);
}

uint64_t float_bits(double x, const Instruction& in) {
  if (has(in, kSat)) x = x > 0 ? (x < 1 ? x : 1) : 0;
  if (Type(in.type) == Type::kF64) return bits_of(x);
  const float narrower = float(x);
  return Type(in.type) == Type::kF32 ? bits_of(narrower) : narrow(narrower, Type(in.type));
}

// An integer converts in one rounding.
uint64_t float_of_integer(uint64_t bits, const Instruction& in) {
  const uint64_t x = extended(bits, in.source_type);
  const bool sign = is_signed(in.source_type);
  if (Type(in.type) == Type::kF64) return bits_of(sign ? double(int64_t(x)) : double(x));
  return bits_of(sign ? float(int64_t(x)) : float(x));
}

uint64_t clamped_integer(uint64_t x, const Instruction& in) {
  const int bits = 8 * type_bytes(in.type);
  const bool from_signed = is_signed(in.source_type), to_signed = is_signed(in.type);
  const uint64_t top = to_signed ? (uint64_t(1) << (bits - 1)) - 1 : ~uint64_t(0) >> (64 - bits);
  if (from_signed && int64_t(x) < 0) {
    const int64_t bottom = to_signed ? -int64_t(top) - 1 : 0;
    return int64_t(x) < bottom ? bottom : x;
  }
  return x > top ? top : x;
}

uint64_t convert_one(uint64_t bits, const Instruction& in) {
  const auto to = Type(in.type), from = Type(in.source_type);
  if (is_float(from)) {
    const double x = to_integral(float_of(bits, from), in);
    return is_float(to) ? float_bits(x, in) : extended(integer_of(x, in), in.type);
  }
  if (is_float(to)) return float_of_integer(bits, in);
  const uint64_t x = extended(bits, in.source_type);
  return extended(has(in, kSat) ? clamped_integer(x, in) : x, in.type);
}

void convert(Warp& w, const Instruction& in) {
  uint64_t values[kLanes];
  read_cells(w, in.from[0], in.from_bytes, values);
  // Volatile, so that the conversion stays between the changes of mode.
  volatile int mode = has(in, kRz)   ? FE_TOWARDZERO
                      : has(in, kRm) ? FE_DOWNWARD
                      : has(in, kRp) ? FE_UPWARD
                                     : FE_TONEAREST;
  if (mode != FE_TONEAREST) std::fesetround(mode);
  lanes(w, [&](int lane) { values[lane] = convert_one(values[lane], in); });
  if (mode != FE_TONEAREST) std::fesetround(FE_TONEAREST);
  write_cells(w, in.to[0], in.to_bytes, values);
}

// Between integers, without a clamp: the commonest conversion.
void resize(Warp& w, const Instruction& in) {
  uint64_t values[kLanes];
  read_cells(w, in.from[0], in.from_bytes, values);
  const bool shrinks = type_bytes(in.type) < type_bytes(in.source_type);
  const uint8_t type = shrinks ? in.type : in.source_type;
  const int unused = 64 - 8 * type_bytes(type);
  if (is_signed(type)) {
    for (auto& value : values) value = uint64_t(int64_t(value << unused) >> unused);
  } else {
    for (auto& value : values) value = value << unused >> unused;
  }
  write_cells(w, in.to[0], in.to_bytes, values);
}

// The first source goes to the upper half.
void convert_pair(Warp& w, const Instruction& in) {
  uint32_t* to = w.to<uint32_t>(in.to[0]);
  const float *high = w.from<float>(in.from[0]), *low = w.from<float>(in.from[1]);
  const auto type = Type(in.type);
  lanes(w, [=](int lane) { to[lane] = narrow(low[lane], type) | narrow(high[lane], type) << 16; });
}

// Every lane's comparison; those of lanes that take no part are not used.
template <class T>
void compare(const T* a, const T* b, Variant variant, bool* hits) {
  const auto each = [=](auto holds) {
    for (int lane = 0; lane < kLanes; ++lane) hits[lane] = holds(a[lane], b[lane]);
  };
  switch (variant) {
    case Variant::kEq: return each([](T x, T y) { return x == y; });
    case Variant::kNe: return each([](T x, T y) { return x < y || x > y; });
    case Variant::kLo:
    case Variant::kLt: return each([](T x, T y) { return x < y; });
    case Variant::kLs:
    case Variant::kLe: return each([](T x, T y) { return x <= y; });
    case Variant::kHi:
    case Variant::kGt: return each([](T x, T y) { return x > y; });
    case Variant::kHs:
    case Variant::kGe: return each([](T x, T y) { return x >= y; });
    case Variant::kEqu: return each([](T x, T y) { return !(x < y || x > y); });
    case Variant::kNeu: return each([](T x, T y) { return x != y; });
    case Variant::kLtu: return each([](T x, T y) { return !(x >= y); });
    case Variant::kLeu: return each([](T x, T y) { return !(x > y); });
    case Variant::kGtu: return each([](T x, T y) { return !(x <= y); });
    case Variant::kGeu: return each([](T x, T y) { return !(x < y); });
    case Variant::kNum: return each([](T x, T y) { return x == x && y == y; });
    default: return each([](T x, T y) { return x != x || y != y; });
  }
}

template <class T>
void set_predicate(Warp& w, const Instruction& in) {
  bool hits[kLanes];
  compare(w.from<T>(in.from[0]), w.from<T>(in.from[1]), Variant(in.variant), hits);
  uint32_t *to = w.to<uint32_t>(in.to[0]), *other = w.to<uint32_t>(in.to[1]);
  const auto combine = Combine(in.combine);
  if (combine == Combine::kNone) {
    return lanes(w, [&](int lane) {
      to[lane] = hits[lane];
      other[lane] = !hits[lane];
    });
  }
  const uint32_t* with = w.from<uint32_t>(in.from[2]);
  const bool flip = in.combine_negated;
  const auto join = [=](bool hit, bool c) {
    return combine == Combine::kAnd ? hit && c : combine == Combine::kOr ? hit || c : hit != c;
  };
  lanes(w, [&](int lane) {
    const bool c = (with[lane] != 0) != flip;
    to[lane] = join(hits[lane], c);
    other[lane] = join(!hits[lane], c);
  });
}

Handler find_set_predicate(uint8_t type) {
  switch (Type(type)) {
    case Type::kB16:
    case Type::kU16: return set_predicate<uint16_t>;
    case Type::kS16: return set_predicate<int16_t>;
    case Type::kB32:
    case Type::kU32: return set_predicate<uint32_t>;
    case Type::kS32: return set_predicate<int32_t>;
    case Type::kB64:
    case Type::kU64: return set_predicate<uint64_t>;
    case Type::kS64: return set_predicate<int64_t>;
    case Type::kF32: return set_predicate<float>;
    case Type::kF64: return set_predicate<double>;
    default: return nullptr;
  }
}

// mov of {a, b} to one register, the first lowest.
void pack(Warp& w, const Instruction& in) {
  uint64_t whole[kLanes] = {}, part[kLanes];
  for (int i = 0; i < in.count; ++i) {
    read_cells(w, in.from[i], in.from_bytes, part);
    for (int lane = 0; lane < kLanes; ++lane) whole[lane] |= part[lane] << (8 * in.from_bytes * i);
  }
  write_cells(w, in.to[0], in.to_bytes, whole);
}

void unpack(Warp& w, const Instruction& in) {
  uint64_t whole[kLanes];
  read_cells(w, in.from[0], in.from_bytes, whole);
  for (int i = 0; i < in.count; ++i) {
    write_cells(w, in.to[i], in.to_bytes, whole);
    for (auto& value : whole) value >>= 8 * in.to_bytes;
  }
}

Handler find_conversion(const Instruction& in) {
  const auto to = Type(in.type), from = Type(in.source_type);
  const auto is_integer = [](Type t) { return t >= Type::kB8 && t <= Type::kS64; };
  const bool pair = to == Type::kF16x2 || to == Type::kBf16x2;
  const bool rounds_down = has(in, kRz) || has(in, kRm) || has(in, kRp);
  if (has(in, kFtz)) return nullptr;
  if (pair) return from == Type::kF32 && !rounds_down && !has(in, kSat) ? convert_pair : nullptr;
  if (is_integer(to) && is_integer(from) && !has(in, kSat)) return resize;
  const bool known = (is_integer(to) || is_float(to)) && (is_integer(from) || is_float(from));
  const bool to_half = to == Type::kF16 || to == Type::kBf16, from_half = from == Type::kF16 || from == Type::kBf16;
  // Through float32 these would round twice, or not as asked.
  const bool inexact = to_half && (from != Type::kF32 || rounds_down);
  return known && !inexact && !(from_half && is_integer(to)) ? convert : nullptr;
}

}  // namespace

Handler find_convert(const Instruction& in) {
  switch (Op(in.op)) {
    case Op::kCvt: return find_conversion(in);
    case Op::kSetp: return has(in, kFtz) ? nullptr : find_set_predicate(in.type);
    case Op::kPack: return pack;
    case Op::kUnpack: return unpack;
    default: return nullptr;
  }
}

}  // namespace tts::ptx
