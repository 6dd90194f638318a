// Integer arithmetic, also through the carry.
#include <algorithm>
#include <type_traits>

#include "arithmetic.h"

namespace tts::ptx {
namespace {

template <class T>
using Twice =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                       std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                          std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

struct MulLow {
  template <class T>
  T operator()(T a, T b) const {
    return Twice<T>(a) * b;
  }
};
struct MulHigh {
  template <class T>
  T operator()(T a, T b) const {
    return (Twice<T>(a) * b) >> (8 * sizeof(T));
  }
};
template <class Mul>
struct Mad {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Mul()(a, b) + c;
  }
};
// A GPU's quotient by zero is all ones.
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    return b == 0 ? T(-1) : T(Twice<T>(a) / b);
  }
};
struct Rem {
  template <class T>
  T operator()(T a, T b) const {
    return b == 0 ? a : T(Twice<T>(a) % b);
  }
};
struct Neg {
  template <class T>
  T operator()(T a) const {
    return -a;
  }
};
struct Abs {
  template <class T>
  T operator()(T a) const {
    return a < 0 ? -a : a;
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct Sad {
  template <class T>
  T operator()(T a, T b, T c) const {
    return c + (a < b ? b - a : a - b);
  }
};

template <class T>
void wide(Warp& w, const Instruction& in) {
  auto* to = w.to<Twice<T>>(in.to[0]);
  const T *a = w.from<T>(in.from[0]), *b = w.from<T>(in.from[1]);
  if (is(in, Op::kMul)) return lanes(w, [=](int lane) { to[lane] = Twice<T>(a[lane]) * b[lane]; });
  const auto* c = w.from<Twice<T>>(in.from[2]);
  lanes(w, [=](int lane) { to[lane] = Twice<T>(a[lane]) * b[lane] + c[lane]; });
}

Handler find_wide(const Instruction& in) {
  switch (Type(in.type)) {
    case Type::kU16: return wide<uint16_t>;
    case Type::kS16: return wide<int16_t>;
    case Type::kU32: return wide<uint32_t>;
    case Type::kS32: return wide<int32_t>;
    default: return nullptr;
  }
}

// add, sub and mad that take or leave a carry.
template <class T>
void carried(Warp& w, const Instruction& in) {
  T* to = w.to<T>(in.to[0]);
  const T *a = w.from<T>(in.from[0]), *b = w.from<T>(in.from[1]);
  const bool multiplies = is(in, Op::kMad) || is(in, Op::kMadc), subtracts = is(in, Op::kSub) || is(in, Op::kSubc);
  const bool takes = is(in, Op::kAddc) || is(in, Op::kSubc) || is(in, Op::kMadc);
  const T* c = multiplies ? w.from<T>(in.from[2]) : nullptr;
  lanes(w, [&](int lane) {
    const Twice<T> carry = takes ? w.carry[lane] : 0;
    Twice<T> x = a[lane], y = b[lane];
    if (multiplies) {
      const Twice<T> product = x * y;
      x = has(in, kHi) ? product >> (8 * sizeof(T)) : Twice<T>(T(product));
      y = c[lane];
    }
    const Twice<T> sum = subtracts ? x - y - carry : x + y + carry;
    to[lane] = T(sum);
    if (has(in, kCc)) w.carry[lane] = (sum >> (8 * sizeof(T))) != 0;
  });
}

Handler find_carried(const Instruction& in) {
  const int bytes = type_bytes(in.type);
  return bytes == 4 ? carried<uint32_t> : bytes == 8 ? carried<uint64_t> : nullptr;
}

}  // namespace

Handler find_integer(const Instruction& in) {
  const bool high = has(in, kHi);
  const Op op = Op(in.op);
  if (op == Op::kAddc || op == Op::kSubc || op == Op::kMadc || has(in, kCc)) return find_carried(in);
  if (has(in, kSat)) return nullptr;
  switch (op) {
    case Op::kAdd: return for_integer<Add, 2>(in.type);
    case Op::kSub: return for_integer<Sub, 2>(in.type);
    case Op::kMul:
      if (has(in, kWide)) return find_wide(in);
      return high ? for_integer<MulHigh, 2>(in.type) : for_integer<MulLow, 2>(in.type);
    case Op::kMad:
      if (has(in, kWide)) return find_wide(in);
      return high ? for_integer<Mad<MulHigh>, 3>(in.type) : for_integer<Mad<MulLow>, 3>(in.type);
    case Op::kDiv: return for_integer<Div, 2>(in.type);
    case Op::kRem: return for_integer<Rem, 2>(in.type);
    case Op::kNeg: return for_integer<Neg, 1>(in.type);
    case Op::kAbs: return for_integer<Abs, 1>(in.type);
    case Op::kMin: return for_integer<Min, 2>(in.type);
    case Op::kMax: return for_integer<Max, 2>(in.type);
    case Op::kSad: return for_integer<Sad, 3>(in.type);
    default: return nullptr;
  }
}

}  // namespace tts::ptx
