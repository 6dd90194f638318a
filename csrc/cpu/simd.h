// Vectors of float over any instruction set, with loads and stores for the storage types of the kernels.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <experimental/simd>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "params.h"

#ifndef TTS_ISA
#define TTS_ISA base
#endif

namespace tts::TTS_ISA {

namespace stdx = std::experimental;
using Vec = stdx::native_simd<float>;
using VecU = stdx::rebind_simd_t<uint32_t, Vec>;
using VecI = stdx::rebind_simd_t<int32_t, Vec>;
using VecH = stdx::rebind_simd_t<uint16_t, Vec>;
constexpr int kLanes = Vec::size();

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
struct Int8 {
  int8_t value;
};
// Four bits of exponent, three of mantissa, no infinity: e4m3fn.
struct Float8 {
  uint8_t bits;
};

template <class To, class From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(static_cast<void*>(&to), static_cast<const void*>(&from), sizeof to);
  return to;
}

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }
inline float to_float(Float16 x) {
  // Shift the exponent into place, then rescale: exact for subnormals too. Infinity and NaN need the top exponent.
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = uint32_t(x.bits & 0x7fff) << 13;
  const float magnitude =
      (x.bits & 0x7c00) == 0x7c00 ? bit_cast<float>(rest | 0x7f800000u) : bit_cast<float>(rest) * 0x1p112f;
  return bit_cast<float>(bit_cast<uint32_t>(magnitude) | sign);
}

inline float to_float(Int8 x) { return x.value; }
inline float to_float(Float8 x) {
  // As with Float16: the exponent's bias is 7 here and 127 there.
  const uint32_t sign = uint32_t(x.bits & 0x80) << 24, rest = uint32_t(x.bits & 0x7f) << 20;
  const float magnitude = (x.bits & 0x7f) == 0x7f ? bit_cast<float>(0x7fc00000u) : bit_cast<float>(rest) * 0x1p120f;
  return bit_cast<float>(bit_cast<uint32_t>(magnitude) | sign);
}

inline void store_float(float* p, float x) { *p = x; }
inline void store_float(BFloat16* p, float x) {
  const uint32_t u = bit_cast<uint32_t>(x);
  p->bits = x != x ? 0x7fc0 : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline void store_float(Float16* p, float x) {
  const uint32_t u = bit_cast<uint32_t>(x), sign = u >> 16 & 0x8000, rest = u & 0x7fffffff;
  uint32_t half;
  if (rest > 0x7f800000u) half = 0x7e00;
  else if (rest >= 0x477ff000u) half = 0x7c00;
  else if (rest < 0x38800000u) half = bit_cast<uint32_t>(bit_cast<float>(rest) + 0.5f) - 0x3f000000u;
  else half = (rest - 0x38000000u + 0xfff + (rest >> 13 & 1)) >> 13;
  p->bits = uint16_t(sign | half);
}

inline Vec load(const float* p) { return Vec(p, stdx::element_aligned); }
inline Vec load(const BFloat16* p) {
  const VecH bits(&p->bits, stdx::element_aligned);
  return bit_cast<Vec>(VecU(stdx::static_simd_cast<VecU>(bits) << 16));
}
inline Vec load(const Float16* p) {
#if defined(__AVX512F__)
  return bit_cast<Vec>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__) && defined(__AVX__)
  return bit_cast<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  return Vec([p](auto i) { return to_float(p[i]); });
#endif
}

inline Vec load(const Int8* p) {
  const stdx::rebind_simd_t<int8_t, Vec> values(&p->value, stdx::element_aligned);
  return stdx::static_simd_cast<Vec>(stdx::static_simd_cast<VecI>(values));
}
inline Vec load(const Float8* p) {
  const stdx::rebind_simd_t<uint8_t, Vec> bits(&p->bits, stdx::element_aligned);
  const VecU wide = stdx::static_simd_cast<VecU>(bits);
  Vec magnitude = bit_cast<Vec>(VecU((wide & 0x7f) << 20)) * 0x1p120f;
  stdx::where(bit_cast<Vec>(VecU((wide & 0x7f) << 20)) == bit_cast<float>(0x07f00000u), magnitude) = Vec(NAN);
  return bit_cast<Vec>(VecU(bit_cast<VecU>(magnitude) | VecU((wide & 0x80) << 24)));
}

inline void store(float* p, Vec v) { v.copy_to(p, stdx::element_aligned); }
inline void store(BFloat16* p, Vec v) {
  const VecU u = bit_cast<VecU>(v);
  VecU rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  stdx::where(bit_cast<VecU>(stdx::abs(v)) > 0x7f800000u, rounded) = VecU(0x7fc0);
  stdx::static_simd_cast<VecH>(rounded).copy_to(&p->bits, stdx::element_aligned);
}
inline void store(Float16* p, Vec v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__) && defined(__AVX__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) store_float(p + i, v[i]);
#endif
}

// Calls body with a value of the storage type that dtype names.
template <class Body>
inline void with_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat32: return body(float{});
    case DType::kBFloat16: return body(BFloat16{});
    case DType::kFloat16: return body(Float16{});
  }
}

}  // namespace tts::TTS_ISA
