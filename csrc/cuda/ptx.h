// Every instruction that C++ does not spell, and nothing else. tests/cuda/simt/cuda/ptx.h says in C++ what each does;
// a build with that directory first on the include path runs the kernels on a host.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

// The block's dynamic shared memory; kernels use no other.
#define TTS_SHARED_MEMORY(name) extern __shared__ __align__(1024) unsigned char name[]

namespace tts::cuda::ptx {

// An address in shared memory, as an integer of half a pointer's size.
using SharedAddress = uint32_t;
__device__ __forceinline__ SharedAddress shared_address(const void* p) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(p));
}

// Starts a copy of 16 bytes, both addresses multiples of 16, past the L1; zeros when not live, source unread.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool live) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(live ? 16 : 0)
               : "memory");
}
// The same of 4 bytes, through the L1.
__device__ __forceinline__ void copy_async_4(void* shared, const void* global, bool live) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(live ? 4 : 0)
               : "memory");
}
// Closes the group of the copies that this thread started since the last commit.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most the newest `pending` groups of this thread are still under way.
template <int pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane l holds the address of row l % 8 of matrix l / 8. Lane l gets of each
// matrix elements (l / 4, l % 4 * 2) and the next in its row.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}
// The same of the transposed matrices.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

// c += a b over a warp: a [16, 16] row-major, b [16, 8] column-major, c [16, 8]; bfloat16 operands, float32 sums.
// Lane l, g = l / 4, t = l % 4: a[0] row g, columns 2t, 2t+1; a[1] row g+8; a[2], a[3] the same 8 columns on;
// b0 rows 2t, 2t+1 of column g; b1 8 rows on; c[0], c[1] row g, columns 2t, 2t+1; c[2], c[3] row g+8.
__device__ __forceinline__ void multiply_bfloat16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same for float16 operands.
__device__ __forceinline__ void multiply_half(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Products of warpgroups, 128 threads that begin at a multiple of 128, exist in code for compute capability 9.0a only.
#if defined(TTS_HOPPER)
constexpr bool kBuiltForWarpgroups = true;
#else
constexpr bool kBuiltForWarpgroups = false;
#endif
// Whether what is being compiled is that code.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kHasWarpgroups = true;
#else
constexpr bool kHasWarpgroups = false;
#endif

// Ends the launch with an error.
__device__ __forceinline__ void trap() { asm volatile("trap;"); }

// What this thread has stored to shared memory, or copied there and waited for, is what products read that other
// threads begin after a barrier.
__device__ __forceinline__ void publish_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The compiler must have written these registers by now and not read them before.
template <int columns>
__device__ __forceinline__ void hold(float (&c)[columns][4]) {
#pragma unroll
  for (int i = 0; i < columns; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(c[i][e])::"memory");
}
// To be called before products that add to c. From the first of them until wait_products() c is out of bounds.
template <int columns>
__device__ __forceinline__ void begin_products(float (&c)[columns][4]) {
  hold(c);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for all that was committed.
template <int columns>
__device__ __forceinline__ void wait_products(float (&c)[columns][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  hold(c);
}

// c = a b, or c += a b, over a warpgroup: a [64, 16], b [16, 64], c [64, 64], float32 sums. Warp w of it has rows 16w
// to 16w + 15 of a and c, each 8 columns of c as multiply_bfloat16() has them. a and b are matrix descriptors of shared
// memory: 16 elements of a row of a, and of a column of b, are neighbours. Another a is in registers, as that of
// multiply_bfloat16() is; then neighbours in b are those of a row.
#define TTS_FOUR(c) "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])
#define TTS_SUMS(c)                                                                                           \
  TTS_FOUR((c)[0]), TTS_FOUR((c)[1]), TTS_FOUR((c)[2]), TTS_FOUR((c)[3]), TTS_FOUR((c)[4]), TTS_FOUR((c)[5]), \
      TTS_FOUR((c)[6]), TTS_FOUR((c)[7])
#define TTS_PRODUCT(type)                                                                                 \
  "{\n.reg .pred add;\nsetp.ne.b32 add, %32, 0;\n"                                                        \
  "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                             \
  " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21," \
  " %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define TTS_MULTIPLY_WARPGROUP(name, type)                                                          \
  __device__ __forceinline__ void name(float(*c)[4], uint64_t a, uint64_t b, bool add) {            \
    asm volatile(TTS_PRODUCT(type) "%33, %34, add, 1, 1, 0, 0;\n}"                                  \
                 : TTS_SUMS(c)                                                                      \
                 : "r"(int(add)), "l"(a), "l"(b)                                                    \
                 : "memory");                                                                       \
  }                                                                                                 \
  __device__ __forceinline__ void name(float(*c)[4], const uint32_t(&a)[4], uint64_t b, bool add) { \
    asm volatile(TTS_PRODUCT(type) "{%33, %34, %35, %36}, %37, add, 1, 1, 1;\n}"                    \
                 : TTS_SUMS(c)                                                                      \
                 : "r"(int(add)), "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                \
                 : "memory");                                                                       \
  }
TTS_MULTIPLY_WARPGROUP(multiply_warpgroup_bfloat16, "bf16")
TTS_MULTIPLY_WARPGROUP(multiply_warpgroup_half, "f16")
#undef TTS_MULTIPLY_WARPGROUP
#undef TTS_PRODUCT
#undef TTS_SUMS
#undef TTS_FOUR

// Rounded to nearest, ties to even; `first` in the lower half.
__device__ __forceinline__ uint32_t pack_bfloat16(float first, float second) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}
__device__ __forceinline__ uint32_t pack_half(float first, float second) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}
__device__ __forceinline__ float float_of_half(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

// 2^x to 2 units in the last place, subnormal results 0; exact for -inf and 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Loads past the L1, which may hold what the line was before another multiprocessor wrote it.
__device__ __forceinline__ float load_past_l1(const float* p) {
  float x;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(p) : "memory");
  return x;
}
__device__ __forceinline__ void load_past_l1_16(uint32_t (&to)[4], const void* p) {
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "l"(p)
               : "memory");
}

// What other threads of the device stored before they released the counter is visible after an acquire that saw it.
__device__ __forceinline__ int32_t load_acquire(const int32_t* p) {
  int32_t x;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}
// Returns what the counter was.
__device__ __forceinline__ int32_t add_acquire_release(int32_t* p, int32_t amount) {
  int32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;" : "=r"(before) : "l"(p), "r"(amount) : "memory");
  return before;
}

}  // namespace tts::cuda::ptx
