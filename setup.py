"""Builds tts_kernels._C (torch ops, stable ABI) and tts_kernels._host (page table, forest, planner).

TTS_BUILD_EXT=0 builds neither: a pure-Python install with the reference and triton backends.
"""

import glob
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

BUILD_EXT = os.environ.get("TTS_BUILD_EXT", "1") != "0"
ROOT = os.path.dirname(os.path.abspath(__file__))

# One build of csrc/cpu per instruction set, chosen at run time in csrc/cpu/isa.cpp. The first is the plain build.
ISA_FLAGS = {"base": []}
if platform.machine() == "x86_64":
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["avx512"] = [
        "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c", "-mprefer-vector-width=512",
    ]  # fmt: skip
# Oldest torch the built library loads into: 2.10.
TORCH_TARGET = ("TORCH_TARGET_VERSION", "0x020a000000000000")
COMMON_FLAGS = ["-std=c++17", "-O3", "-fvisibility=hidden", "-Wall"]
# GCC 12 warns inside its own AVX headers (bug 105593).
KERNEL_FLAGS = [
    *COMMON_FLAGS,
    "-fno-math-errno",
    "-fno-trapping-math",
    # Debug symbols of vector templates double the build's time.
    "-g0",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
]


def sanitizer_flags() -> list[str]:
    names = os.environ.get("TTS_SANITIZE", "")
    # -O1: sanitized vector code takes minutes to optimise further.
    return [f"-fsanitize={names}", "-fno-sanitize-recover", "-fno-omit-frame-pointer", "-g1", "-O1"] if names else []


class BuildExt(build_ext):
    """Compiles the sources of csrc/cpu once per instruction set before the extension that links them."""

    def build_extension(self, ext: Extension) -> None:
        ext.extra_compile_args += sanitizer_flags()
        ext.extra_link_args += sanitizer_flags()
        if ext.name.endswith("._C"):
            ext.extra_objects += self.kernel_objects()
        super().build_extension(ext)

    def kernel_objects(self) -> list[str]:
        sources = sorted(set(glob.glob("csrc/cpu/*.cpp")) - {"csrc/cpu/isa.cpp"})

        def compile_one(job: tuple[str, str]) -> list[str]:
            isa, source = job
            return self.compiler.compile(
                [source],
                output_dir=os.path.join(self.build_temp, isa),
                macros=[("TTS_ISA", isa)],
                include_dirs=["csrc"],
                extra_postargs=[*KERNEL_FLAGS, *ISA_FLAGS[isa], *sanitizer_flags()],
                depends=glob.glob("csrc/**/*.h", recursive=True),
            )

        jobs = [(isa, source) for isa in ISA_FLAGS for source in sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [objects[0] for objects in pool.map(compile_one, jobs)]


def torch_extension() -> Extension:
    import torch

    torch_dir = os.path.dirname(torch.__file__)
    return Extension(
        "tts_kernels._C",
        ["csrc/bindings.cpp", "csrc/cpu/isa.cpp"],
        include_dirs=["csrc", os.path.join(torch_dir, "include")],
        library_dirs=[os.path.join(torch_dir, "lib")],
        libraries=["torch_cpu", "c10"],
        define_macros=[TORCH_TARGET, ("Py_LIMITED_API", "0x030a0000")],
        extra_compile_args=list(COMMON_FLAGS),
        extra_link_args=["-Wl,--exclude-libs,ALL"] if sys.platform == "linux" else [],
        depends=glob.glob("csrc/**/*.h", recursive=True),
        py_limited_api=True,
    )


def host_extension() -> Extension:
    import pybind11

    return Extension(
        "tts_kernels._host",
        sorted(glob.glob("csrc/host/*.cpp")),
        include_dirs=["csrc", pybind11.get_include()],
        extra_compile_args=list(COMMON_FLAGS),
        depends=glob.glob("csrc/host/*.h"),
        language="c++",
    )


if BUILD_EXT:
    os.chdir(ROOT)
    setup(
        ext_modules=[torch_extension(), *([host_extension()] if glob.glob("csrc/host/*.cpp") else [])],
        cmdclass={"build_ext": BuildExt},
    )
else:
    setup()
