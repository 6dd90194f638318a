// How launchers reach the device: the only users of the CUDA runtime. tests/cuda/simt/cuda/launch.h runs on a host.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/launchers.h"

namespace tts::cuda {

// Blocks in x, y and z.
struct Grid {
  unsigned x, y = 1, z = 1;
};

// Starts the kernel, which takes its Params by value. Returns a CUDA error code, 0 for success.
template <class Params>
int launch(void (*kernel)(Params), Grid grid, int threads, size_t shared_bytes, Stream stream, const Params& p) {
  // What a block may have without asking.
  constexpr size_t kUnasked = 48 * 1024;
  if (shared_bytes > kUnasked) {
    const auto error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid.x, grid.y, grid.z);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, kernel, p);
}

}  // namespace tts::cuda
