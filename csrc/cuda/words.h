// Moving bytes as the widest words that every address allows.
#pragma once
#include "cuda/types.h"

namespace tts::cuda {

// Calls body with a word of the widest type of which every address and size is a multiple. bits: all of these ored.
template <class Body>
inline int with_word(uint64_t bits, Body body) {
  if (bits % 16 == 0) return body(Vec16{});
  if (bits % 8 == 0) return body(uint64_t{});
  if (bits % 4 == 0) return body(uint32_t{});
  if (bits % 2 == 0) return body(uint16_t{});
  return body(uint8_t{});
}

inline uint64_t address_bits(const void* p) { return uint64_t(reinterpret_cast<uintptr_t>(p)); }

}  // namespace tts::cuda
