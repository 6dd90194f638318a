// Stacks that take turns on one thread of the host.
#pragma once
#include <cstddef>
#include <cstdint>
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace simt {

struct Context {
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;
#ifndef __x86_64__
  ucontext_t machine;
#endif
  // Of AddressSanitizer.
  void* fake_stack = nullptr;
};

constexpr size_t kStackBytes = 128 * 1024;

// Leaves `from`, to return when someone switches to it again.
void switch_context(Context& from, Context& to);
// The next switch to the context calls entry, which never returns, on its stack; skew bytes of the stack stay unused.
void start_context(Context& context, size_t skew, void (*entry)());
// The first thing that an entry does.
void enter_context(Context& context);
// Addresses for the stacks of `count` fibers, each above a page that must not be touched.
unsigned char* reserve_stacks(size_t count);

}  // namespace simt
