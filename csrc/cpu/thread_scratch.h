// Memory of a thread that outlives its tasks.
#pragma once
#include <cstdint>
#include <new>

#include "cpu/simd.h"

namespace tts::TTS_ISA {

// Hands out pieces of one buffer, which grows to the largest need so far and is freed when the thread ends.
class ThreadScratch {
 public:
  ~ThreadScratch() { release(); }

  // Starts over, with room for `pieces` pieces of `floats` values together.
  void reset(int64_t floats, int pieces) {
    const int64_t need = floats + pieces * kAlign;
    if (need > size_) {
      release();
      data_ = nullptr;
      size_ = 0;
      data_ = static_cast<float*>(::operator new(need * sizeof(float), kAlignment));
      size_ = need;
    }
    used_ = 0;
  }
  float* take(int64_t floats) {
    float* piece = data_ + used_;
    used_ += (floats + kAlign - 1) / kAlign * kAlign;
    return piece;
  }

 private:
  static constexpr int64_t kAlign = 16;
  static constexpr std::align_val_t kAlignment{kAlign * sizeof(float)};
  void release() { ::operator delete(data_, kAlignment); }

  float* data_ = nullptr;
  int64_t size_ = 0, used_ = 0;
};

}  // namespace tts::TTS_ISA
