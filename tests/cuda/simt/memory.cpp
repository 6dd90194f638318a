// Checks of every access: plain ones come from the compiler, which was asked to instrument them as for ThreadSanitizer
// and finds these hooks in the place of its library; all others come from the twins of the PTX wrappers.
#include "memory.h"

#include <link.h>

#include <algorithm>
#include <vector>

#include "cuda/ptx.h"
#include "meter.h"
#include "runtime.h"
#include "shadow.h"

namespace simt {
namespace {

std::vector<Allocation> known;
std::vector<std::string> names;
bool anything_goes = true;
// Most accesses are to the allocation of the one before.
int latest = 0;
uintptr_t stacks_begin = 0, stacks_bytes = 0;
// Of this library: constants of the kernels.
uintptr_t image_begin = 0, image_end = 0;

int find_image(dl_phdr_info* info, size_t, void*) {
  uintptr_t begin = UINTPTR_MAX, end = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    begin = std::min<uintptr_t>(begin, info->dlpi_addr + segment.p_vaddr);
    end = std::max<uintptr_t>(end, info->dlpi_addr + segment.p_vaddr + segment.p_memsz);
  }
  const auto here = reinterpret_cast<uintptr_t>(&image_begin);
  if (here < begin || here >= end) return 0;
  image_begin = begin;
  image_end = end;
  return 1;
}

const char* verb(Access access) {
  return access == Access::kLoad ? "load" : access == Access::kStore ? "store" : "atomic";
}
std::string describe(Access access, uint32_t size) {
  return std::string(verb(access)) + " of " + std::to_string(size) + " bytes ";
}

[[noreturn]] void fail_outside(uintptr_t address, Access access, uint32_t size) {
  const Allocation* nearest = nullptr;
  uintptr_t least = 1 << 24;
  for (const Allocation& a : known) {
    const uintptr_t away = address >= a.end ? address - a.end : address < a.begin ? a.begin - address : 0;
    if (away < least) {
      least = away;
      nearest = &a;
    }
  }
  if (nearest == nullptr) {
    char hex[32];
    snprintf(hex, sizeof hex, "0x%llx", static_cast<unsigned long long>(address));
    fail(describe(access, size) + "at " + hex + ", which is no memory of this launch");
  }
  const auto offset = int64_t(address - nearest->begin);
  fail(describe(access, size) + "at " + (offset < 0 ? "" : "+") + std::to_string(offset) + " of " + nearest->name +
       ", which has " + std::to_string(nearest->end - nearest->begin));
}

bool inside(const Allocation& a, uintptr_t address, uint32_t size, Access access) {
  return address >= a.begin && address + size <= a.end && (access == Access::kLoad || a.writable != 0);
}

void check_global(uintptr_t address, Access access, uint32_t size, const void* site) {
  if (known.empty() || !inside(known[size_t(latest)], address, size, access)) {
    const auto found =
        std::find_if(known.begin(), known.end(), [&](const Allocation& a) { return inside(a, address, size, access); });
    if (found == known.end()) {
      if (address >= image_begin && address < image_end && access == Access::kLoad) return;
      for (const Allocation& a : known)
        if (inside(a, address, size, Access::kLoad)) fail(describe(access, size) + "to " + a.name + ", an input");
      fail_outside(address, access, size);
    }
    latest = int(found - known.begin());
  }
  if (options.counts) meter_global(access, latest, address, size, site);
}

void check_aligned(uintptr_t address, Access access, uint32_t size) {
  if ((address & (size - 1)) == 0) return;
  fail("misaligned " + describe(access, size) + "at " + std::to_string(address % 128) + " modulo 128");
}

// The offset in shared memory.
uint32_t check_shared(uintptr_t address, Access access, uint32_t size, const char* what) {
  const uintptr_t offset = address - reinterpret_cast<uintptr_t>(block.shared);
  if (offset >= kMaxSharedBytes) fail(std::string(what) + ": not an address of shared memory");
  if (offset + size > block.shared_bytes)
    fail(describe(access, size) + "at +" + std::to_string(offset) + " of shared memory, which has " +
         std::to_string(block.shared_bytes));
  check_aligned(address, access, size);
  return uint32_t(offset);
}

// size: a power of 2, at most 16.
inline void check(uintptr_t address, Access access, uint32_t size, const void* site) {
  if (current == nullptr || address - stacks_begin < stacks_bytes) return;
  if (address - reinterpret_cast<uintptr_t>(block.shared) < kMaxSharedBytes) {
    const uint32_t offset = check_shared(address, access, size, "");
    shadow_touch(access, offset, size);
    if (options.counts) meter_shared(access, kPlain, offset, size, site);
    return;
  }
  check_aligned(address, access, size);
  if (!anything_goes) check_global(address, access, size, site);
}

// A struct that is copied whole, but whose type is not aligned to its size: the device moves words.
void check_range(uintptr_t address, Access access, uint64_t size, const void* site) {
  const uint32_t step = ((address | size) & 3) == 0 ? 4 : 1;
  const auto place = reinterpret_cast<uintptr_t>(site);
  for (uint64_t i = 0; i < size; i += step)
    check(address + i, access, step, reinterpret_cast<const void*>(place + (i << 48)));
}

template <class T, class Change>
T change(T* p, Change new_value, const void* site) {
  check(reinterpret_cast<uintptr_t>(p), Access::kAtomic, sizeof(T), site);
  const T before = *p;
  *p = new_value(before);
  return before;
}

void land(const Copy& copy) {
  if (copy.live) memcpy(copy.shared, copy.global, copy.bytes);
  else memset(copy.shared, 0, copy.bytes);
}

}  // namespace

void set_allocations(const Allocation* allocations, int count) {
  if (image_end == 0) dl_iterate_phdr(find_image, nullptr);
  anything_goes = allocations == nullptr;
  count = anything_goes ? 0 : std::min(count, kMaxAllocations);
  known.assign(allocations, allocations + count);
  names.clear();
  for (const Allocation& a : known) names.push_back(a.name);
  for (size_t i = 0; i < known.size(); ++i) known[i].name = names[i].c_str();
  latest = 0;
}

bool recording() { return !anything_goes; }

void set_stacks(const unsigned char* begin, size_t bytes) {
  stacks_begin = reinterpret_cast<uintptr_t>(begin);
  stacks_bytes = bytes;
}

const unsigned char* check_matrix_row(uint32_t row, const void* site) {
  const unsigned char* at = block.shared + (row - kSharedBegin);
  const uint32_t offset = check_shared(reinterpret_cast<uintptr_t>(at), Access::kLoad, 16, "ldmatrix");
  shadow_touch(Access::kLoad, offset, 16);
  if (options.counts) meter_shared(Access::kLoad, kMatrix, offset, 16, site);
  return at;
}

const unsigned char* check_operand(uint32_t chunk) {
  const unsigned char* at = block.shared + (chunk - kSharedBegin);
  const uint32_t offset = check_shared(reinterpret_cast<uintptr_t>(at), Access::kLoad, 16, "wgmma");
  shadow_touch(Access::kLoad, offset, 16);
  shadow_expect_published(offset, 16);
  return at;
}

uint32_t shared_address(const void* p) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(block.shared);
  if (offset > kMaxSharedBytes) fail("shared_address: not an address of shared memory");
  return kSharedBegin + uint32_t(offset);
}

void copy_async(void* shared, const void* global, int size, bool live) {
  const void* site = __builtin_return_address(0);
  const auto bytes = uint32_t(size);
  const uint32_t offset = check_shared(reinterpret_cast<uintptr_t>(shared), Access::kStore, bytes, "cp.async");
  check_aligned(reinterpret_cast<uintptr_t>(global), Access::kLoad, bytes);
  if (live && !anything_goes) check_global(reinterpret_cast<uintptr_t>(global), Access::kLoad, bytes, site);
  shadow_start_copy(offset, bytes);
  if (options.counts) meter_shared(Access::kStore, kCopied, offset, bytes, site);
  Fiber& me = *current;
  me.copies.push_back({block.shared + offset, static_cast<const unsigned char*>(global), me.committed, bytes, live});
  // The bytes are there, but nobody may know: for the shadow they land when they are waited for.
  if (options.early) land(me.copies.back());
}

void commit_copies() { ++current->committed; }

void wait_copies(int pending) {
  Fiber& me = *current;
  while (me.landed < me.copies.size() && me.copies[me.landed].group + unsigned(pending) < me.committed) {
    const Copy& copy = me.copies[me.landed++];
    if (!options.early) land(copy);
    shadow_land_copy(uint32_t(copy.shared - block.shared), copy.bytes);
  }
  if (me.landed < me.copies.size()) return;
  me.copies.clear();
  me.landed = 0;
}

Words load_words(const void* p, int count) {
  check(reinterpret_cast<uintptr_t>(p), Access::kLoad, uint32_t(4 * count), __builtin_return_address(0));
  Words words{};
  memcpy(words.x, p, size_t(4 * count));
  return words;
}

int32_t add_counter(int32_t* p, int32_t amount) {
  return change(p, [=](int32_t x) { return x + amount; }, __builtin_return_address(0));
}

}  // namespace simt

#define SITE __builtin_return_address(0)
#define SIMT_ATOMIC(T, name, result)                                \
  T name(T* p, T value) {                                           \
    return simt::change(p, [=](T x) -> T { return result; }, SITE); \
  }
#define SIMT_ATOMICS(T)                            \
  SIMT_ATOMIC(T, atomicAdd, x + value)             \
  SIMT_ATOMIC(T, atomicMax, x < value ? value : x) \
  SIMT_ATOMIC(T, atomicMin, value < x ? value : x) \
  SIMT_ATOMIC(T, atomicOr, x | value)              \
  SIMT_ATOMIC(T, atomicAnd, x& value)
SIMT_ATOMICS(int)
SIMT_ATOMICS(unsigned)
SIMT_ATOMICS(unsigned long long)
SIMT_ATOMIC(float, atomicAdd, x + value)
SIMT_ATOMIC(double, atomicAdd, x + value)

#define TSAN_HOOKS(size)                                                                   \
  void __tsan_read##size(uintptr_t p) { simt::check(p, simt::Access::kLoad, size, SITE); } \
  void __tsan_write##size(uintptr_t p) { simt::check(p, simt::Access::kStore, size, SITE); }
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
TSAN_HOOKS(1)
TSAN_HOOKS(2)
TSAN_HOOKS(4)
TSAN_HOOKS(8)
TSAN_HOOKS(16)
void __tsan_read_range(uintptr_t p, uint64_t size) { simt::check_range(p, simt::Access::kLoad, size, SITE); }
void __tsan_write_range(uintptr_t p, uint64_t size) { simt::check_range(p, simt::Access::kStore, size, SITE); }
// Guards of the launchers' static variables.
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) { return *p; }
}
