// Element-wise instructions: a function object over every lane, for a type chosen when the kernel is loaded.
#pragma once
#include "machine.h"

namespace tts::ptx {

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return a - b;
  }
};

// F()(a), F()(a, b) or F()(a, b, c) of type D, sources of type T.
template <class F, class T, int sources, class D = T>
void apply(Warp& w, const Instruction& in) {
  D* to = w.to<D>(in.to[0]);
  const T* a = w.from<T>(in.from[0]);
  if constexpr (sources == 1) {
    lanes(w, [=](int lane) { to[lane] = F()(a[lane]); });
  } else if constexpr (sources == 2) {
    const T* b = w.from<T>(in.from[1]);
    lanes(w, [=](int lane) { to[lane] = F()(a[lane], b[lane]); });
  } else {
    const T* b = w.from<T>(in.from[1]);
    const T* c = w.from<T>(in.from[2]);
    lanes(w, [=](int lane) { to[lane] = F()(a[lane], b[lane], c[lane]); });
  }
}

template <class F, int sources>
Handler for_integer(uint8_t type) {
  switch (Type(type)) {
    case Type::kB16:
    case Type::kU16: return apply<F, uint16_t, sources>;
    case Type::kS16: return apply<F, int16_t, sources>;
    case Type::kB32:
    case Type::kU32: return apply<F, uint32_t, sources>;
    case Type::kS32: return apply<F, int32_t, sources>;
    case Type::kB64:
    case Type::kU64: return apply<F, uint64_t, sources>;
    case Type::kS64: return apply<F, int64_t, sources>;
    default: return nullptr;
  }
}

// Whatever the sign, predicates too.
template <class F, int sources>
Handler for_bits(uint8_t type) {
  if (Type(type) == Type::kPred) return apply<F, uint32_t, sources>;
  switch (type_bytes(type)) {
    case 2: return apply<F, uint16_t, sources>;
    case 4: return apply<F, uint32_t, sources>;
    case 8: return apply<F, uint64_t, sources>;
  }
  return nullptr;
}

}  // namespace tts::ptx
