// Bit fields, shifts, selections and integer comparisons.
#include <limits>
#include <type_traits>

#include "arithmetic.h"

namespace tts::ptx {
namespace {

struct And {
  template <class T>
  T operator()(T a, T b) const {
    return a & b;
  }
};
struct Or {
  template <class T>
  T operator()(T a, T b) const {
    return a | b;
  }
};
struct Xor {
  template <class T>
  T operator()(T a, T b) const {
    return a ^ b;
  }
};
struct Not {
  template <class T>
  T operator()(T a) const {
    return ~a;
  }
};
// Of a predicate, and of a number as in C.
struct IsZero {
  template <class T>
  T operator()(T a) const {
    return a == 0;
  }
};
struct Same {
  template <class T>
  T operator()(T a) const {
    return a;
  }
};
struct Popc {
  template <class T>
  uint32_t operator()(T a) const {
    return __builtin_popcountll(a);
  }
};
struct Clz {
  template <class T>
  uint32_t operator()(T a) const {
    return a == 0 ? 8 * sizeof(T) : __builtin_clzll(a) - (64 - 8 * sizeof(T));
  }
};
struct Brev {
  template <class T>
  T operator()(T a) const {
    T result = 0;
    for (unsigned bit = 0; bit < 8 * sizeof(T); ++bit) result |= (a >> bit & 1) << (8 * sizeof(T) - 1 - bit);
    return result;
  }
};
// The byte of {a, b} that each digit of c names; bit 3 of a digit spreads the byte's sign.
struct Prmt {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t c) const {
    const uint64_t both = uint64_t(b) << 32 | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
      const uint32_t digit = c >> (4 * i) & 15, byte = both >> (8 * (digit & 7)) & 255;
      result |= (digit & 8 ? (byte & 128 ? 255 : 0) : byte) << (8 * i);
    }
    return result;
  }
};

// The second source is a number of bits: 32 bits wide, clamped.
template <class T>
void shift_left(Warp& w, const Instruction& in) {
  T* to = w.to<T>(in.to[0]);
  const T* a = w.from<T>(in.from[0]);
  const uint32_t* by = w.from<uint32_t>(in.from[1]);
  lanes(w, [=](int lane) { to[lane] = by[lane] >= 8 * sizeof(T) ? T(0) : T(a[lane] << by[lane]); });
}
template <class T>
void shift_right(Warp& w, const Instruction& in) {
  T* to = w.to<T>(in.to[0]);
  const T* a = w.from<T>(in.from[0]);
  const uint32_t* by = w.from<uint32_t>(in.from[1]);
  constexpr uint32_t kLast = 8 * sizeof(T) - 1;
  lanes(w, [=](int lane) { to[lane] = by[lane] <= kLast ? T(a[lane] >> by[lane]) : a[lane] < 0 ? T(-1) : T(0); });
}
Handler find_shift(const Instruction& in) {
  const bool left = is(in, Op::kShl);
  switch (Type(in.type)) {
    case Type::kS16: return shift_right<int16_t>;
    case Type::kS32: return shift_right<int32_t>;
    case Type::kS64: return shift_right<int64_t>;
    default: break;
  }
  switch (type_bytes(in.type)) {
    case 2: return left ? shift_left<uint16_t> : shift_right<uint16_t>;
    case 4: return left ? shift_left<uint32_t> : shift_right<uint32_t>;
    case 8: return left ? shift_left<uint64_t> : shift_right<uint64_t>;
  }
  return nullptr;
}

void funnel(Warp& w, const Instruction& in) {
  uint32_t* to = w.to<uint32_t>(in.to[0]);
  const uint32_t *a = w.from<uint32_t>(in.from[0]), *b = w.from<uint32_t>(in.from[1]);
  const uint32_t* c = w.from<uint32_t>(in.from[2]);
  const bool wraps = has(in, kWrap), left = Variant(in.variant) == Variant::kL;
  lanes(w, [=](int lane) {
    const uint32_t by = wraps ? c[lane] & 31 : c[lane] < 32 ? c[lane] : 32;
    const uint64_t both = uint64_t(b[lane]) << 32 | a[lane];
    to[lane] = left ? uint32_t((both << by) >> 32) : uint32_t(both >> by);
  });
}

void lop3(Warp& w, const Instruction& in) {
  uint32_t* to = w.to<uint32_t>(in.to[0]);
  const uint32_t *a = w.from<uint32_t>(in.from[0]), *b = w.from<uint32_t>(in.from[1]);
  const uint32_t* c = w.from<uint32_t>(in.from[2]);
  const uint32_t table = *w.from<uint32_t>(in.from[3]);
  lanes(w, [=](int lane) {
    uint32_t result = 0;
    for (int i = 0; i < 8; ++i) {
      const uint32_t hit = (i & 4 ? a[lane] : ~a[lane]) & (i & 2 ? b[lane] : ~b[lane]) & (i & 1 ? c[lane] : ~c[lane]);
      result |= table >> i & 1 ? hit : 0;
    }
    to[lane] = result;
  });
}

template <class T>
void extract(Warp& w, const Instruction& in) {
  using U = std::make_unsigned_t<T>;
  constexpr uint32_t kBits = 8 * sizeof(T);
  T* to = w.to<T>(in.to[0]);
  const T* a = w.from<T>(in.from[0]);
  const uint32_t *begins = w.from<uint32_t>(in.from[1]), *lengths = w.from<uint32_t>(in.from[2]);
  lanes(w, [=](int lane) {
    const uint32_t begin = begins[lane] & 255, length = lengths[lane] & 255;
    const uint32_t last = begin + length - 1 < kBits ? begin + length - 1 : kBits - 1;
    const bool negative = std::is_signed_v<T> && length > 0 && U(a[lane]) >> last & 1;
    U field = begin < kBits ? U(a[lane]) >> begin : 0;
    if (length < kBits) field &= (U(1) << length) - 1;
    const uint32_t got = length == 0 ? kBits : begin < kBits ? last - begin + 1 : 0;
    if (negative && got < kBits) field |= ~U(0) << got;
    to[lane] = length == 0 ? T(0) : T(field);
  });
}

template <class T>
void insert(Warp& w, const Instruction& in) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  T* to = w.to<T>(in.to[0]);
  const T *a = w.from<T>(in.from[0]), *b = w.from<T>(in.from[1]);
  const uint32_t *begins = w.from<uint32_t>(in.from[2]), *lengths = w.from<uint32_t>(in.from[3]);
  lanes(w, [=](int lane) {
    const uint32_t begin = begins[lane] & 255, length = lengths[lane] & 255;
    const T ones = length < kBits ? (T(1) << length) - 1 : ~T(0);
    const T mask = begin < kBits ? ones << begin : T(0);
    to[lane] = (b[lane] & ~mask) | (begin < kBits ? (a[lane] << begin) & mask : T(0));
  });
}

template <class T>
void find_leading(Warp& w, const Instruction& in) {
  uint32_t* to = w.to<uint32_t>(in.to[0]);
  const T* a = w.from<T>(in.from[0]);
  const bool amount = has(in, kShiftamt);
  lanes(w, [=](int lane) {
    const auto x = std::make_unsigned_t<T>(a[lane] < 0 ? ~a[lane] : a[lane]);
    const uint32_t zeros = Clz()(x), last = 8 * sizeof(T) - 1;
    to[lane] = x == 0 ? 0xFFFFFFFF : amount ? zeros : last - zeros;
  });
}

template <class T>
void select(Warp& w, const Instruction& in) {
  T* to = w.to<T>(in.to[0]);
  const T *a = w.from<T>(in.from[0]), *b = w.from<T>(in.from[1]);
  const uint32_t* chosen = w.from<uint32_t>(in.from[2]);
  lanes(w, [=](int lane) { to[lane] = chosen[lane] ? a[lane] : b[lane]; });
}

template <template <class> class Run>
Handler by_sign(uint8_t type) {
  switch (Type(type)) {
    case Type::kU32: return Run<uint32_t>::run;
    case Type::kS32: return Run<int32_t>::run;
    case Type::kU64: return Run<uint64_t>::run;
    case Type::kS64: return Run<int64_t>::run;
    default: return nullptr;
  }
}
template <class T>
struct Extract {
  static constexpr Handler run = extract<T>;
};
template <class T>
struct Leading {
  static constexpr Handler run = find_leading<T>;
};

template <class T>
Handler sized(const Instruction& in) {
  if (is(in, Op::kSelp)) return select<T>;
  if (Type(in.type) > Type::kS64) return nullptr;
  switch (Op(in.op)) {
    case Op::kPopc: return apply<Popc, T, 1, uint32_t>;
    case Op::kClz: return apply<Clz, T, 1, uint32_t>;
    case Op::kBrev: return apply<Brev, T, 1>;
    case Op::kBfi: return insert<T>;
    default: return nullptr;
  }
}

}  // namespace

Handler find_bits(const Instruction& in) {
  switch (Op(in.op)) {
    case Op::kAnd: return for_bits<And, 2>(in.type);
    case Op::kOr: return for_bits<Or, 2>(in.type);
    case Op::kXor: return for_bits<Xor, 2>(in.type);
    case Op::kNot: return Type(in.type) == Type::kPred ? apply<IsZero, uint32_t, 1> : for_bits<Not, 1>(in.type);
    case Op::kCnot: return for_bits<IsZero, 1>(in.type);
    case Op::kMov: return for_bits<Same, 1>(in.type);
    case Op::kShl:
    case Op::kShr: return find_shift(in);
    case Op::kShf: return funnel;
    case Op::kLop3: return lop3;
    case Op::kPrmt: return Variant(in.variant) == Variant::kNone ? apply<Prmt, uint32_t, 3> : nullptr;
    case Op::kBfe: return by_sign<Extract>(in.type);
    case Op::kBfind: return by_sign<Leading>(in.type);
    default: break;
  }
  const int bytes = type_bytes(in.type);
  return bytes == 8   ? sized<uint64_t>(in)
         : bytes == 4 ? sized<uint32_t>(in)
         : bytes == 2 ? sized<uint16_t>(in)
                      : nullptr;
}

}  // namespace tts::ptx
