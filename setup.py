"""Builds tts_kernels._C (torch ops, stable ABI) and tts_kernels._host (page table, forest, planner).

TTS_BUILD_EXT=0 builds neither: a pure-Python install with the reference and triton backends.
The CUDA kernels are built where nvcc is found (PATH, CUDA_HOME): TTS_CUDA_ARCHS="80;90" for these compute capabilities,
"native" for the GPUs of this machine, "" for none. "90a" has what only Hopper can do, "90" the portable kernels.
"""

import glob
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

BUILD_EXT = os.environ.get("TTS_BUILD_EXT", "1") != "0"
ROOT = os.path.dirname(os.path.abspath(__file__))

# One build of csrc/cpu per instruction set, chosen at run time in csrc/cpu/isa.cpp. The first is the plain build.
ISA_FLAGS = {"base": []}
# Kernels that gain from instructions for products of bfloat16: TTS_FOR_EACH_MATRIX_ISA in csrc/cpu/dispatch.h.
MATRIX_KERNELS = {"csrc/cpu/tree_attention.cpp", "csrc/cpu/linear.cpp"}
MATRIX_ISAS = ("avx512_bf16", "amx")
if platform.machine() == "x86_64":
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["avx512"] = [
        "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c", "-mprefer-vector-width=512",
    ]  # fmt: skip
    ISA_FLAGS["avx512_bf16"] = [*ISA_FLAGS["avx512"], "-mavx512bf16"]
    ISA_FLAGS["amx"] = [*ISA_FLAGS["avx512_bf16"], "-mamx-tile", "-mamx-bf16"]
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

# Newest first; nvcc builds those that it knows, and the first also as PTX for what comes later.
CUDA_ARCHS = "120;100;90a;89;86;80"
CUDA_FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Icsrc"]


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which(os.path.join(home, "bin", "nvcc")) if home else None
    return nvcc or shutil.which("nvcc")


def output_of(*command: str) -> str:
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return result.stdout


def has_hopper() -> bool:
    """Whether the GPUs of this machine are of compute capability 9.0."""
    if shutil.which("nvidia-smi") is None:
        return False
    return set(output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").split()) == {"9.0"}


def arch_flags(nvcc: str, archs: str) -> list[str]:
    """nvcc's options for a list like "90a;80"."""
    if archs == "native":
        return ["-gencode=arch=compute_90a,code=sm_90a", "-DTTS_HOPPER"] if has_hopper() else ["-arch=native"]
    known = {line.strip().removeprefix("compute_") for line in output_of(nvcc, "--list-gpu-arch").splitlines()}
    wanted = [arch for arch in archs.split(";") if arch]
    if archs == CUDA_ARCHS:
        wanted = [arch for arch in wanted if arch.removesuffix("a") in known]
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in wanted]
    # What is for 9.0 alone must not be the PTX for what comes later.
    newest = wanted[0].removesuffix("a")
    macros = ["-DTTS_HOPPER"] if "90a" in wanted else []
    return [*flags, f"-gencode=arch=compute_{newest},code=compute_{newest}", *macros]


def cuda_objects(nvcc: str, archs: str, folder: str) -> list[str]:
    """Compiles what changed of csrc/cuda/*.cu."""
    folder = os.path.join(folder, "cuda-" + archs.replace(";", "-"))
    os.makedirs(folder, exist_ok=True)
    headers = max(map(os.path.getmtime, ["csrc/params.h", "csrc/philox.h", *glob.glob("csrc/cuda/*.h")]))
    flags = [*CUDA_FLAGS, *arch_flags(nvcc, archs)]

    def compile_one(source: str) -> str:
        made = os.path.join(folder, os.path.basename(source) + ".o")
        if not os.path.exists(made) or os.path.getmtime(made) < max(headers, os.path.getmtime(source)):
            subprocess.run([nvcc, *flags, "-c", source, "-o", made], check=True)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sorted(glob.glob("csrc/cuda/*.cu"))))


def static_runtime(nvcc: str) -> str:
    """The CUDA runtime to be linked in, so that the extension also loads where CUDA is not installed."""
    top = next(line for line in output_of(nvcc, "-dryrun", "-E", "-x", "cu", os.devnull).splitlines() if "TOP=" in line)
    folders = [os.path.join(top.split("TOP=")[1].strip(), name) for name in ("lib64", "lib", "lib/x64")]
    files = [os.path.join(folder, "libcudart_static.a") for folder in folders]
    return next(file for file in files if os.path.exists(file))


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
            archs, nvcc = os.environ.get("TTS_CUDA_ARCHS", CUDA_ARCHS), find_nvcc()
            if archs and nvcc:
                ext.sources.append("csrc/bindings_cuda.cpp")
                ext.extra_objects += [*cuda_objects(nvcc, archs, self.build_temp), static_runtime(nvcc)]
                ext.libraries += ["dl", "rt", "pthread"]
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

        jobs = [
            (isa, source)
            for isa in ISA_FLAGS
            for source in sources
            if isa not in MATRIX_ISAS or source in MATRIX_KERNELS
        ]
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


if __name__ == "__main__":
    os.chdir(ROOT)
    modules = [torch_extension(), host_extension()] if BUILD_EXT else []
    setup(ext_modules=modules, cmdclass={"build_ext": BuildExt})
