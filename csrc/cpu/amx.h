// Products of bfloat16 in the tile registers of AMX.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace tts::TTS_ISA::amx {

// Eight tiles of 16 rows of 64 bytes, for the life of the object on its thread.
class Tiles {
 public:
  Tiles() {
    Config config;
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
  }
  ~Tiles() { __asm__ volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
};

// c[i][j] = sum_k a[i][k] * b[k][j] of pairs. Strides in bytes, depth in pairs.
struct Operands {
  const void* a;
  int64_t lda;
  const void* b;
  int64_t ldb, depth;
  float* c;
  int64_t ldc;
  // From a to what will be multiplied next, 0: nothing.
  int64_t ahead;
};

// The compiler does not see that tile instructions read and write memory.
inline void fence() { __asm__ volatile("" ::: "memory"); }

// One or two tiles of rows and of columns: tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 columns.
template <bool kTwoRows, bool kTwoCols>
inline void multiply_tiles(const Operands& p, const char* a, const char* b, char* c, bool add, bool prefetch) {
  char *c_low = c + 16 * p.ldc, *c_right = c + 64, *c_last = c_low + 64;
  if (add) {
    _tile_loadd(0, c, p.ldc);
    if (kTwoCols) _tile_loadd(1, c_right, p.ldc);
    if (kTwoRows) _tile_loadd(2, c_low, p.ldc);
    if (kTwoRows && kTwoCols) _tile_loadd(3, c_last, p.ldc);
  } else {
    _tile_zero(0);
    if (kTwoCols) _tile_zero(1);
    if (kTwoRows) _tile_zero(2);
    if (kTwoRows && kTwoCols) _tile_zero(3);
  }
  for (int64_t k = 0; k < p.depth; k += 16, a += 64, b += 16 * p.ldb) {
    if (prefetch)
      for (int i = 0; i < (kTwoRows ? 32 : 16); ++i) _mm_prefetch(a + p.ahead + i * p.lda, _MM_HINT_T1);
    _tile_loadd(4, a, p.lda);
    _tile_loadd(6, b, p.ldb);
    _tile_dpbf16ps(0, 4, 6);
    if (kTwoCols) _tile_loadd(7, b + 64, p.ldb);
    if (kTwoCols) _tile_dpbf16ps(1, 4, 7);
    if (kTwoRows) _tile_loadd(5, a + 16 * p.lda, p.lda);
    if (kTwoRows) _tile_dpbf16ps(2, 5, 6);
    if (kTwoRows && kTwoCols) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, p.ldc);
  if (kTwoCols) _tile_stored(1, c_right, p.ldc);
  if (kTwoRows) _tile_stored(2, c_low, p.ldc);
  if (kTwoRows && kTwoCols) _tile_stored(3, c_last, p.ldc);
}

// For multiples of 16 of rows, columns and depth.
template <class Between>
inline void multiply(const Operands& p, int64_t rows, int64_t cols, bool add, const Between& between) {
  fence();
  for (int64_t j = 0; j < cols; j += 32) {
    const bool two_cols = cols - j > 16;
    for (int64_t i = 0; i < rows; i += 32) {
      const char* a = static_cast<const char*>(p.a) + i * p.lda;
      const char* b = static_cast<const char*>(p.b) + j * 4;
      char* c = reinterpret_cast<char*>(p.c) + i * p.ldc + j * 4;
      const bool prefetch = p.ahead && j == 0;
      if (rows - i > 16)
        (two_cols ? multiply_tiles<true, true> : multiply_tiles<true, false>)(p, a, b, c, add, prefetch);
      else (two_cols ? multiply_tiles<false, true> : multiply_tiles<false, false>)(p, a, b, c, add, prefetch);
      between();
    }
  }
  fence();
}

}  // namespace tts::TTS_ISA::amx
