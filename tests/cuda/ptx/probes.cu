// Small kernels for test_ptx.py: what the probes of the shim (../simt/probes.cu) do not reach.
#include "cuda/types.h"

namespace tts::cuda {

struct ValueParams {
  const void* in;
  void* out;
  int64_t n;
};

// Column i of out [columns, n] is function i of element n of in.
__global__ void float_kernel(const ValueParams p) {
  const int t = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (t >= p.n) return;
  const float x = static_cast<const float*>(p.in)[t];
  float* out = static_cast<float*>(p.out) + t;
  const float results[] = {expf(x),
                           logf(fabsf(x)),
                           tanhf(x),
                           exp2f(x),
                           log2f(fabsf(x)),
                           sqrtf(fabsf(x)),
                           1.0f / x,
                           __fdiv_rn(x, 3.0f),
                           fmaf(x, x, x),
                           floorf(x),
                           rintf(x),
                           truncf(x),
                           fminf(x, 0.5f),
                           fmaxf(x, 0.5f),
                           log1pf(fabsf(x)),
                           rsqrtf(fabsf(x)),
                           copysignf(2.0f, x),
                           ceilf(x),
                           float(double(x) / 3),
                           fabsf(x)};
  for (int i = 0; i < 20; ++i) out[i * p.n] = results[i];
}

__global__ void double_kernel(const ValueParams p) {
  const int t = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (t >= p.n) return;
  const double x = static_cast<const double*>(p.in)[t];
  double* out = static_cast<double*>(p.out) + t;
  const double results[] = {exp(x),        log(fabs(x)),       tanh(x),  1 / x,          sqrt(fabs(x)),
                            floor(x),      fma(x, x, x),       expm1(x), log1p(fabs(x)), rint(x),
                            fmin(x, 0.25), double(int64_t(x)), exp2(x),  5.0 / fabs(x)};
  for (int i = 0; i < 14; ++i) out[i * p.n] = results[i];
}

// in: pairs of n, of n; the second is not 0.
template <class T>
__global__ void integer_kernel(const ValueParams p) {
  const int t = int(threadIdx.x);
  const T a = static_cast<const T*>(p.in)[2 * t], b = static_cast<const T*>(p.in)[2 * t + 1];
  T* out = static_cast<T*>(p.out) + t;
  const T results[] = {T(a / b), T(a % b), T(a * b), T(a >> 3), T(a << 5), T(a & b), T(a ^ ~b), min(a, b), max(a, b)};
  for (int i = 0; i < 9; ++i) out[i * p.n] = results[i];
}

// in: pairs of uint32.
__global__ void bits_kernel(const ValueParams p) {
  const int t = int(threadIdx.x);
  const uint32_t a = static_cast<const uint32_t*>(p.in)[2 * t], b = static_cast<const uint32_t*>(p.in)[2 * t + 1];
  uint32_t* out = static_cast<uint32_t*>(p.out) + t;
  const uint32_t results[] = {uint32_t(__popc(a)),
                              uint32_t(__clz(a)),
                              uint32_t(__ffs(a)),
                              __brev(a),
                              __umulhi(a, b),
                              __byte_perm(a, b, 0x6125),
                              __funnelshift_l(a, b, 7),
                              uint32_t((uint64_t(b) << 32 | a) / 1000003 >> 3),
                              uint32_t(__clzll(uint64_t(a) << 20)),
                              (a & b) | (~a & 0xF0F0F0F0)};
  for (int i = 0; i < 10; ++i) out[i * p.n] = results[i];
}

// in: pairs of uint32. What C++ has no word for, and nvcc or a later wrapper may emit.
__global__ void instructions_kernel(const ValueParams p) {
  const int t = int(threadIdx.x);
  const uint32_t a = static_cast<const uint32_t*>(p.in)[2 * t], b = static_cast<const uint32_t*>(p.in)[2 * t + 1];
  const float x = float(int(a)), y = float(b);
  uint32_t r[13];
  float f[5];
  asm("bfe.u32 %0, %1, 5, 9;" : "=r"(r[0]) : "r"(a));
  asm("bfe.s32 %0, %1, 5, 9;" : "=r"(r[1]) : "r"(a));
  asm("bfi.b32 %0, %1, %2, 4, 7;" : "=r"(r[2]) : "r"(a), "r"(b));
  asm("bfind.u32 %0, %1;" : "=r"(r[3]) : "r"(a));
  asm("lop3.b32 %0, %1, %2, %3, 0xD8;" : "=r"(r[4]) : "r"(a), "r"(b), "r"(t));
  asm("add.cc.u32 %0, %2, %3; addc.u32 %1, %2, 0;" : "=r"(r[5]), "=r"(r[6]) : "r"(a), "r"(b));
  asm("sub.cc.u32 %0, %2, %3; subc.u32 %1, %2, 0;" : "=r"(r[7]), "=r"(r[8]) : "r"(a), "r"(b));
  asm("shf.r.clamp.b32 %0, %1, %2, %3;" : "=r"(r[9]) : "r"(a), "r"(b), "r"(t));
  asm("sad.u32 %0, %1, %2, 7;" : "=r"(r[10]) : "r"(a), "r"(b));
  asm("redux.sync.min.u32 %0, %1, -1;" : "=r"(r[11]) : "r"(a));
  asm("{ .reg .u32 at; and.b32 at, %1, 1; ways: .branchtargets even, odd; brx.idx at, ways;\n"
      "even: mov.u32 %0, 100; bra.uni done; odd: mov.u32 %0, 200; done: }"
      : "=r"(r[12])
      : "r"(a));
  asm("cvt.rz.f32.f64 %0, %1;" : "=f"(f[0]) : "d"(double(a) / 3));
  asm("cvt.rp.f32.f64 %0, %1;" : "=f"(f[1]) : "d"(double(a) / 3));
  asm("add.rm.f32 %0, %1, %2;" : "=f"(f[2]) : "f"(x), "f"(y));
  asm("min.NaN.f32 %0, %1, 0f7FC00000;" : "=f"(f[3]) : "f"(x));
  asm("max.f32 %0, %1, 0f7FC00000;" : "=f"(f[4]) : "f"(x));
  uint32_t* out = static_cast<uint32_t*>(p.out) + t;
  for (int i = 0; i < 13; ++i) out[i * 32] = r[i];
  for (int i = 0; i < 5; ++i) out[(13 + i) * 32] = __float_as_uint(f[i]);
}

// An array that no registers hold.
__global__ void local_kernel(const ValueParams p) {
  const int t = int(threadIdx.x);
  int values[8];
  for (int i = 0; i < 8; ++i) values[i] = static_cast<const int*>(p.in)[t] + i;
  values[(t + p.n) % 8] = -1;
  static_cast<int*>(p.out)[t] = values[t % 8];
}

// A path of its own for each remainder, with a loop in one.
__global__ void switch_kernel(const ValueParams p) {
  const int t = int(threadIdx.x), x = static_cast<const int*>(p.in)[t];
  int y = 0;
  switch (x % 7) {
    case 0: y = x * 3; break;
    case 1:
      for (int i = 0; i < x; ++i) y += i ^ t;
      break;
    case 2: y = x - 100; break;
    case 3: y = x / 5; break;
    case 4: y = static_cast<const int*>(p.in)[0]; break;
    case 5: y = -x; break;
    default: y = 12345;
  }
  static_cast<int*>(p.out)[t] = y + __shfl_xor_sync(~0u, x, 1);
}

// Every exchange of values within a warp, and barriers that count.
__global__ void warp_kernel(const ValueParams p) {
  const int t = int(threadIdx.x), x = static_cast<const int*>(p.in)[t];
  int* out = static_cast<int*>(p.out) + t;
  const int results[] = {__shfl_sync(~0u, x, 5),      __shfl_up_sync(~0u, x, 3),
                         __shfl_down_sync(~0u, x, 2), __shfl_xor_sync(~0u, x, 7),
                         __shfl_sync(~0u, x, 1, 8),   int(__ballot_sync(~0u, x > 50)),
                         __any_sync(~0u, x > 98),     __all_sync(~0u, x > 1),
                         __reduce_add_sync(~0u, x),   int(__match_any_sync(~0u, x % 3)),
                         __syncthreads_count(x > 50), __syncthreads_or(x > 97)};
  for (int i = 0; i < 12; ++i) out[i * p.n] = results[i];
}

// Sums over the grid by each atomic operation, through shared memory for some.
__global__ void atomics_kernel(const ValueParams p) {
  TTS_SHARED_MEMORY(memory);
  int* mine = reinterpret_cast<int*>(memory);
  int* out = static_cast<int*>(p.out);
  const int t = int(threadIdx.x), x = static_cast<const int*>(p.in)[blockIdx.x * blockDim.x + t];
  if (t < 2) mine[t] = 0;
  __syncthreads();
  atomicAdd(&mine[0], x);
  atomicMax(&mine[1], x);
  __syncthreads();
  if (t == 0) atomicAdd(&out[0], mine[0]);
  if (t == 0) atomicMax(&out[1], mine[1]);
  atomicMin(&out[2], x);
  atomicOr(reinterpret_cast<unsigned*>(&out[3]), 1u << (x & 31));
  atomicAdd(reinterpret_cast<float*>(&out[4]), float(x));
  atomicAdd(reinterpret_cast<unsigned long long*>(&out[6]), 1ull << 33);
  atomicAdd(reinterpret_cast<double*>(&out[8]), 0.5 * x);
  atomicCAS(&out[10], 0, 7);
}

// n: 0 a lane leaves before the warp shuffles, 1 a barrier in one branch of a warp, 2 no end, 3 two barriers at once.
__global__ void stuck_kernel(const ValueParams p) {
  const int t = int(threadIdx.x);
  int* out = static_cast<int*>(p.out);
  if (p.n == 0 && t == 3) return;
  if (p.n == 1 && t < 16) __syncthreads();
  if (p.n == 2) {
    while (*static_cast<volatile int*>(p.out) != 77) {
    }
  }
  if (p.n == 3) {
    if (t < 32) asm volatile("bar.sync 1, 64;");
    else asm volatile("bar.sync 2, 64;");
  }
  out[t] = __shfl_xor_sync(~0u, t, 1);
}

// A warp reads the next one's values; n: 0 without a barrier.
__global__ void race_kernel(const ValueParams p) {
  TTS_SHARED_MEMORY(memory);
  float* values = reinterpret_cast<float*>(memory);
  const int t = int(threadIdx.x);
  values[t] = 0.0f;
  __syncthreads();
  values[t] = float(t);
  if (p.n != 0) __syncthreads();
  static_cast<float*>(p.out)[t] = values[(t + 32) % int(blockDim.x)];
}

// 512 multiply-adds of a thread, for the speed of the interpreter itself.
__global__ void busy_kernel(const ValueParams p) {
  const int t = int(threadIdx.x);
  float x = static_cast<const float*>(p.in)[t];
#pragma unroll 1
  for (int i = 0; i < p.n; ++i) {
#pragma unroll
    for (int j = 0; j < 16; ++j) x = fmaf(x, 0.75f, float(j));
  }
  static_cast<float*>(p.out)[t] = x;
}

template __global__ void integer_kernel<int32_t>(const ValueParams);
template __global__ void integer_kernel<uint32_t>(const ValueParams);
template __global__ void integer_kernel<int64_t>(const ValueParams);

}  // namespace tts::cuda
