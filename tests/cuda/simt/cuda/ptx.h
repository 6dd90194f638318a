// What each wrapper of csrc/cuda/ptx.h does, in C++. The work is done by simt.cpp's runtime, which is told who calls.
#pragma once
#include "builtins.h"

#define TTS_SHARED_MEMORY(name) unsigned char* const name = ::simt::shared_memory()

namespace simt {

// By value, so that the kernels' own arrays stay out of memory that others may see.
struct Words {
  uint32_t x[4];
};
struct Floats {
  float x[4];
};

uint32_t shared_address(const void* p);
// Of 4 or 16 bytes.
void copy_async(void* shared, const void* global, int bytes, bool live);
void commit_copies();
void wait_copies(int pending);
Words load_matrices(uint32_t row, bool transposed);
Floats multiply(Floats c, Words a, uint32_t b0, uint32_t b1, bool half);
void publish_to_products();
void begin_products();
void commit_products();
void wait_products();
// c: 32 sums. registers: four, or null where a describes a matrix in shared memory.
void multiply_warpgroup(float* c, const uint32_t* registers, uint64_t a, uint64_t b, bool add, bool half);
uint16_t bfloat16_of(float x);
uint16_t half_of(float x);
float float_of_half(uint16_t bits);
float exp2_approx(float x);
// Loads that are reported as the kernel's own; count words of 4 bytes.
Words load_words(const void* p, int count);
int32_t add_counter(int32_t* p, int32_t amount);

}  // namespace simt

namespace tts::cuda::ptx {

using SharedAddress = uint32_t;
SIMT_UNSEEN SharedAddress shared_address(const void* p) { return simt::shared_address(p); }

SIMT_UNSEEN void copy_async_16(void* shared, const void* global, bool live) {
  simt::copy_async(shared, global, 16, live);
}
SIMT_UNSEEN void copy_async_4(void* shared, const void* global, bool live) {
  simt::copy_async(shared, global, 4, live);
}
SIMT_UNSEEN void commit_copies() { simt::commit_copies(); }
template <int pending>
SIMT_UNSEEN void wait_copies() {
  simt::wait_copies(pending);
}

SIMT_UNSEEN void put(uint32_t (&to)[4], const simt::Words& from) {
  for (int i = 0; i < 4; ++i) to[i] = from.x[i];
}
SIMT_UNSEEN void load_matrices(uint32_t (&to)[4], SharedAddress row) { put(to, simt::load_matrices(row, false)); }
SIMT_UNSEEN void load_matrices_transposed(uint32_t (&to)[4], SharedAddress row) {
  put(to, simt::load_matrices(row, true));
}

SIMT_UNSEEN void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool half) {
  const simt::Floats sum = simt::multiply({{c[0], c[1], c[2], c[3]}}, {{a[0], a[1], a[2], a[3]}}, b0, b1, half);
  for (int i = 0; i < 4; ++i) c[i] = sum.x[i];
}
SIMT_UNSEEN void multiply_bfloat16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply(c, a, b0, b1, false);
}
SIMT_UNSEEN void multiply_half(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply(c, a, b0, b1, true);
}

constexpr bool kBuiltForWarpgroups = true, kHasWarpgroups = true;
SIMT_UNSEEN void trap() { __builtin_trap(); }
SIMT_UNSEEN void publish_to_products() { simt::publish_to_products(); }
template <int columns>
SIMT_UNSEEN void begin_products(float (&)[columns][4]) {
  simt::begin_products();
}
SIMT_UNSEEN void commit_products() { simt::commit_products(); }
template <int columns>
SIMT_UNSEEN void wait_products(float (&)[columns][4]) {
  simt::wait_products();
}
SIMT_UNSEEN void multiply_warpgroup_bfloat16(float (*c)[4], uint64_t a, uint64_t b, bool add) {
  simt::multiply_warpgroup(c[0], nullptr, a, b, add, false);
}
SIMT_UNSEEN void multiply_warpgroup_bfloat16(float (*c)[4], const uint32_t (&a)[4], uint64_t b, bool add) {
  simt::multiply_warpgroup(c[0], a, 0, b, add, false);
}
SIMT_UNSEEN void multiply_warpgroup_half(float (*c)[4], uint64_t a, uint64_t b, bool add) {
  simt::multiply_warpgroup(c[0], nullptr, a, b, add, true);
}
SIMT_UNSEEN void multiply_warpgroup_half(float (*c)[4], const uint32_t (&a)[4], uint64_t b, bool add) {
  simt::multiply_warpgroup(c[0], a, 0, b, add, true);
}

SIMT_UNSEEN uint32_t pack_bfloat16(float first, float second) {
  return simt::bfloat16_of(first) | uint32_t(simt::bfloat16_of(second)) << 16;
}
SIMT_UNSEEN uint32_t pack_half(float first, float second) {
  return simt::half_of(first) | uint32_t(simt::half_of(second)) << 16;
}
SIMT_UNSEEN float float_of_half(uint16_t bits) { return simt::float_of_half(bits); }
SIMT_UNSEEN float exp2_approx(float x) { return simt::exp2_approx(x); }

SIMT_UNSEEN float load_past_l1(const float* p) {
  const simt::Words word = simt::load_words(p, 1);
  float x;
  memcpy(&x, word.x, sizeof x);
  return x;
}
SIMT_UNSEEN void load_past_l1_16(uint32_t (&to)[4], const void* p) { put(to, simt::load_words(p, 4)); }

SIMT_UNSEEN int32_t load_acquire(const int32_t* p) { return int32_t(simt::load_words(p, 1).x[0]); }
SIMT_UNSEEN int32_t add_acquire_release(int32_t* p, int32_t amount) { return simt::add_counter(p, amount); }

}  // namespace tts::cuda::ptx
