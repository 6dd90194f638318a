"""Runs the PTX that nvcc makes of the kernels, on a machine without a GPU and on the host's own memory.

    module = Module(compile_ptx(Path("csrc/cuda/merge_states.cu")))
    counts = module.launch(symbol, grid, threads, shared_bytes, params, [Allocation("out", begin, end), ...])

A host build of the launchers, whose launch() calls back instead of running the kernel, plugs in here:

    runner = executor_callback([module, ...], lambda: allocations, mode="late", seed=0)
    library.set_launch(runner.callback)
    library.merge_states(...)
    runner.check()

callback is an int (*)(const char* symbol, const uint32_t grid[3], uint32_t threads, uint64_t shared_bytes,
const void* params, uint64_t params_size); it returns 0, or 719 (cudaErrorLaunchFailure) after an error, which
check() raises. runner.counts has the Counts of each launched symbol.
"""

from .build import compile_ptx
from .callback import Runner, executor_callback
from .counts import Counts
from .layout import PtxError
from .module import Allocation, Mode, Module

__all__ = ["Allocation", "Counts", "Mode", "Module", "PtxError", "Runner", "compile_ptx", "executor_callback"]
