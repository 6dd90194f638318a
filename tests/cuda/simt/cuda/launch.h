// How launchers reach the fibers: a launch runs its grid at once. Twin of csrc/cuda/launch.h.
#pragma once
#include <cstddef>

#include "builtins.h"
#include "cuda/launchers.h"

namespace simt {

using Call = void (*)(void* kernel, const void* params);
int launch(void* kernel, Call call, Dim grid, int threads, size_t shared_bytes, const void* params, size_t params_size);

}  // namespace simt

namespace tts::cuda {

struct Grid {
  unsigned x, y = 1, z = 1;
};

// Returns 0, or 1 when a check failed: error_text() then says which.
template <class Params>
int launch(void (*kernel)(Params), Grid grid, int threads, size_t shared_bytes, Stream, const Params& p) {
  const simt::Call call = [](void* kernel, const void* params) __attribute__((no_sanitize("thread"))) {
    reinterpret_cast<void (*)(Params)>(kernel)(*static_cast<const Params*>(params));
  };
  return simt::launch(reinterpret_cast<void*>(kernel), call, {grid.x, grid.y, grid.z}, threads, shared_bytes, &p,
                      sizeof p);
}

}  // namespace tts::cuda
