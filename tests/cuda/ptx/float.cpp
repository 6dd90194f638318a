// Arithmetic of float32 and float64. The .approx functions give the host's correctly rounded or nearly so results.
#include <cfenv>
#include <cmath>
#include <limits>

#include "arithmetic.h"

namespace tts::ptx {
namespace {

struct Mul {
  template <class T>
  T operator()(T a, T b) const {
    return a * b;
  }
};
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    return a / b;
  }
};
struct Fma {
  template <class T>
  T operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};
// The other operand where one is NaN; -0 is less than 0.
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b || b != b || (a == b && std::signbit(a)) ? a : b;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a > b || b != b || (a == b && !std::signbit(a)) ? a : b;
  }
};
template <class Order>
struct Propagate {
  template <class T>
  T operator()(T a, T b) const {
    return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : Order()(a, b);
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
    return std::fabs(a);
  }
};
// PTX takes the sign of the first and the size of the second.
struct Copysign {
  template <class T>
  T operator()(T a, T b) const {
    return std::copysign(b, a);
  }
};
struct Sqrt {
  template <class T>
  T operator()(T a) const {
    return std::sqrt(a);
  }
};
struct Rcp {
  template <class T>
  T operator()(T a) const {
    return 1 / a;
  }
};
struct Rsqrt {
  template <class T>
  T operator()(T a) const {
    return 1 / std::sqrt(a);
  }
};
// The double-precision seeds read and write the upper words only.
template <class F>
struct Seed {
  double operator()(double a) const {
    uint64_t bits;
    memcpy(&bits, &a, 8);
    bits &= 0xFFFFFFFF00000000;
    memcpy(&a, &bits, 8);
    const double result = F()(a);
    memcpy(&bits, &result, 8);
    bits &= 0xFFFFFFFF00000000;
    memcpy(&a, &bits, 8);
    return a;
  }
};
struct Ex2 {
  float operator()(float a) const { return std::exp2(a); }
};
struct Lg2 {
  float operator()(float a) const { return std::log2(a); }
};
struct Sin {
  float operator()(float a) const { return std::sin(a); }
};
struct Cos {
  float operator()(float a) const { return std::cos(a); }
};
struct Tanh {
  float operator()(float a) const { return std::tanh(a); }
};

template <class T>
T flushed(T x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T(0), x) : x;
}

int rounding(const Instruction& in) {
  return has(in, kRz) ? FE_TOWARDZERO : has(in, kRm) ? FE_DOWNWARD : has(in, kRp) ? FE_UPWARD : FE_TONEAREST;
}

// With a rounding other than to nearest, with subnormals flushed, or clamped to [0, 1].
template <class F, class T, int sources>
void apply_modified(Warp& w, const Instruction& in) {
  const int mode = rounding(in);
  const bool flush = has(in, kFtz) && sizeof(T) == 4, clamps = has(in, kSat);
  T* to = w.to<T>(in.to[0]);
  // Volatile, so that the arithmetic stays between the changes of mode.
  volatile T result, x[3];
  if (mode != FE_TONEAREST) std::fesetround(mode);
  lanes(w, [&](int lane) {
    for (int i = 0; i < sources; ++i) {
      const T source = w.from<T>(in.from[i])[lane];
      x[i] = flush ? flushed(source) : source;
    }
    if constexpr (sources == 1) result = F()(T(x[0]));
    if constexpr (sources == 2) result = F()(T(x[0]), T(x[1]));
    if constexpr (sources == 3) result = F()(T(x[0]), T(x[1]), T(x[2]));
    T y = flush ? flushed(T(result)) : T(result);
    if (clamps) y = y > 0 ? (y < 1 ? y : T(1)) : T(0);
    to[lane] = y;
  });
  if (mode != FE_TONEAREST) std::fesetround(FE_TONEAREST);
}

template <class F, class T, int sources>
Handler plain_or_modified(const Instruction& in) {
  const bool modified = rounding(in) != FE_TONEAREST || has(in, kFtz) || has(in, kSat);
  return modified ? apply_modified<F, T, sources> : apply<F, T, sources>;
}
template <class F, int sources>
Handler for_float(const Instruction& in) {
  if (Type(in.type) == Type::kF32) return plain_or_modified<F, float, sources>(in);
  if (Type(in.type) == Type::kF64) return plain_or_modified<F, double, sources>(in);
  return nullptr;
}
template <class F>
Handler for_float32(const Instruction& in) {
  return Type(in.type) == Type::kF32 ? plain_or_modified<F, float, 1>(in) : nullptr;
}
template <class F>
Handler seed_or_exact(const Instruction& in) {
  if (Type(in.type) == Type::kF64 && has(in, kApprox)) return apply<Seed<F>, double, 1>;
  return for_float<F, 1>(in);
}

template <class T>
void test(Warp& w, const Instruction& in) {
  uint32_t* to = w.to<uint32_t>(in.to[0]);
  const T* a = w.from<T>(in.from[0]);
  lanes(w, [&](int lane) {
    const T x = a[lane];
    switch (Variant(in.variant)) {
      case Variant::kFinite: to[lane] = std::isfinite(x); break;
      case Variant::kInfinite: to[lane] = std::isinf(x); break;
      case Variant::kNumber: to[lane] = !std::isnan(x); break;
      case Variant::kNotanumber: to[lane] = std::isnan(x); break;
      case Variant::kNormal: to[lane] = std::isnormal(x); break;
      default: to[lane] = std::fpclassify(x) == FP_SUBNORMAL;
    }
  });
}

}  // namespace

Handler find_float(const Instruction& in) {
  const bool nan = has(in, kNan);
  switch (Op(in.op)) {
    case Op::kAdd: return for_float<Add, 2>(in);
    case Op::kSub: return for_float<Sub, 2>(in);
    case Op::kMul: return for_float<Mul, 2>(in);
    case Op::kDiv: return for_float<Div, 2>(in);
    case Op::kMad:
    case Op::kFma: return for_float<Fma, 3>(in);
    case Op::kMin: return nan ? for_float<Propagate<Min>, 2>(in) : for_float<Min, 2>(in);
    case Op::kMax: return nan ? for_float<Propagate<Max>, 2>(in) : for_float<Max, 2>(in);
    case Op::kNeg: return for_float<Neg, 1>(in);
    case Op::kAbs: return for_float<Abs, 1>(in);
    case Op::kCopysign: return for_float<Copysign, 2>(in);
    case Op::kSqrt: return for_float<Sqrt, 1>(in);
    case Op::kRcp: return seed_or_exact<Rcp>(in);
    case Op::kRsqrt: return seed_or_exact<Rsqrt>(in);
    case Op::kEx2: return for_float32<Ex2>(in);
    case Op::kLg2: return for_float32<Lg2>(in);
    case Op::kSin: return for_float32<Sin>(in);
    case Op::kCos: return for_float32<Cos>(in);
    case Op::kTanh: return for_float32<Tanh>(in);
    case Op::kTestp:
      return Type(in.type) == Type::kF32 ? test<float> : Type(in.type) == Type::kF64 ? test<double> : nullptr;
    default: return nullptr;
  }
}

}  // namespace tts::ptx
