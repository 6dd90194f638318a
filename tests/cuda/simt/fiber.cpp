#include "fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef __x86_64__
// The registers that a call preserves go on the old stack and come from the new one.
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");
extern "C" void simt_switch(void** save, void* load);
#endif

namespace simt {
namespace {

#ifdef __SANITIZE_ADDRESS__
void leave(Context& from, Context& to) {
  void* stack = to.stack;
  size_t bytes = kStackBytes;
  if (stack == nullptr) {
    pthread_attr_t host;
    pthread_getattr_np(pthread_self(), &host);
    pthread_attr_getstack(&host, &stack, &bytes);
    pthread_attr_destroy(&host);
  }
  __sanitizer_start_switch_fiber(&from.fake_stack, stack, bytes);
}
void arrive(Context& on) { __sanitizer_finish_switch_fiber(on.fake_stack, nullptr, nullptr); }
#else
void leave(Context&, Context&) {}
void arrive(Context&) {}
#endif

}  // namespace

void switch_context(Context& from, Context& to) {
  leave(from, to);
#ifdef __x86_64__
  simt_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.machine, &to.machine);
#endif
  arrive(from);
}

void enter_context(Context& context) { arrive(context); }

void start_context(Context& context, size_t skew, void (*entry)()) {
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(context.stack, kStackBytes);
  context.fake_stack = nullptr;
#endif
#ifdef __x86_64__
  // A return address, so that the entry finds its stack as after a call, and the six registers below the entry.
  constexpr int kRegisters = 6;
  auto* top = reinterpret_cast<void**>(context.stack + kStackBytes - skew) - 1;
  *top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kRegisters; ++i) *--top = nullptr;
  context.stack_pointer = top;
#else
  getcontext(&context.machine);
  context.machine.uc_stack.ss_sp = context.stack;
  context.machine.uc_stack.ss_size = kStackBytes - skew;
  context.machine.uc_link = nullptr;
  makecontext(&context.machine, entry, 0);
#endif
}

unsigned char* reserve_stacks(size_t count) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* arena = mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (arena == MAP_FAILED) abort();
  auto* bytes = static_cast<unsigned char*>(arena);
  for (size_t i = 0; i < count; ++i) mprotect(bytes + i * kStackBytes, 4096, PROT_NONE);
  return bytes;
}

}  // namespace simt
