// Plain memory for the length of one task. std::vector's instantiations would be merged across instruction sets.
#pragma once
#include <cstdint>
#include <new>

#include "cpu/simd.h"

namespace tts::TTS_ISA {

template <class Item>
struct TaskMemory {
  explicit TaskMemory(int64_t size) : items(static_cast<Item*>(::operator new(size * sizeof(Item)))) {}
  ~TaskMemory() { ::operator delete(items); }
  TaskMemory(const TaskMemory&) = delete;
  TaskMemory& operator=(const TaskMemory&) = delete;
  Item* items;
};

}  // namespace tts::TTS_ISA
