// What a processor can do at most, measured: multiply-adds from registers, in float32 and bfloat16, and reading memory.
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>
#if defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
// Enough sums to hide the latency of one: two units of four or five cycles.
constexpr int kSums = 12;
typedef float Floats __attribute__((vector_size(kBytes)));
typedef int64_t Words __attribute__((vector_size(kBytes)));

template <typename Body>
void on_threads(int threads, Body body) {
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(body, i);
  body(0);
  for (std::thread& other : others) other.join();
}

// Hides a value from the compiler, which would compute equal sums once and unused ones never.
template <typename Vector>
void hide(Vector& value) {
  asm volatile("" : "+x"(value));
}

void multiply_floats(int64_t steps) {
  Floats sums[kSums] = {}, one = {}, small = {};
  hide(one);
  hide(small);
  for (Floats& sum : sums) hide(sum);
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (int k = 0; k < kSums; ++k) sums[k] = sums[k] * one + small;
  for (Floats& sum : sums) hide(sum);
}

#if defined(__AMX_BF16__) && defined(__linux__)
constexpr int64_t kPairsPerStep = 4 * 16 * 16 * 32;

void multiply_bfloats(int64_t steps) {
  // Palette 1, eight tiles of 16 rows of 64 bytes: four sums of products of two tiles with two.
  alignas(64) uint8_t config[64] = {1}, zeros[1024] = {};
  for (int tile = 0; tile < 8; ++tile) config[16 + 2 * tile] = 64, config[48 + tile] = 16;
  // gcc does not know what the instructions read.
  asm volatile("" : : "r"(config), "r"(zeros) : "memory");
  _tile_loadconfig(config);
  _tile_loadd(4, zeros, 64);
  _tile_loadd(5, zeros, 64);
  _tile_loadd(6, zeros, 64);
  _tile_loadd(7, zeros, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < steps; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

bool bfloats_allowed() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#elif defined(__AVX512BF16__)
constexpr int64_t kPairsPerStep = kSums * 32;

void multiply_bfloats(int64_t steps) {
  __m512 sums[kSums] = {};
  __m512 pairs = _mm512_setzero_ps();
  hide(pairs);
  for (__m512& sum : sums) hide(sum);
  for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (int k = 0; k < kSums; ++k) sums[k] = _mm512_dpbf16_ps(sums[k], (__m512bh)pairs, (__m512bh)pairs);
  for (__m512& sum : sums) hide(sum);
}

bool bfloats_allowed() { return true; }
#else
constexpr int64_t kPairsPerStep = 1;

void multiply_bfloats(int64_t) {}

bool bfloats_allowed() { return false; }
#endif

}  // namespace

extern "C" {

// Operations done, a multiplication and an addition counted as two.
double float_peak(int64_t steps, int threads) {
  on_threads(threads, [=](int) { multiply_floats(steps); });
  return 2.0 * steps * kSums * (kBytes / 4) * threads;
}

// 0 where the processor multiplies no bfloat16.
double bfloat_peak(int64_t steps, int threads) {
  if (!bfloats_allowed()) return 0;
  on_threads(threads, [=](int) { multiply_bfloats(steps); });
  return 2.0 * steps * kPairsPerStep * threads;
}

// Bytes read. Each thread reads a part of its own, from front to back.
double read_all(const void* memory, int64_t bytes, int threads) {
  const int64_t part = bytes / kBytes / threads / kSums * kSums;
  on_threads(threads, [=](int thread) {
    const Words* from = static_cast<const Words*>(memory) + thread * part;
    Words sums[kSums] = {};
    for (int64_t i = 0; i < part; i += kSums)
#pragma GCC unroll 12
      for (int k = 0; k < kSums; ++k) sums[k] += from[i + k];
    for (Words& sum : sums) hide(sum);
  });
  return static_cast<double>(part) * kBytes * threads;
}
}
