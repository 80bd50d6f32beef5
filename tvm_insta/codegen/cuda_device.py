"""CUDA kernels to device code on a machine that may have no card and no driver.

TVM embeds compiled device code only when its CUDA run-time library is loaded, and that library asks
for the driver's libcuda.so.1, which comes with a card. Where there is none, a stand-in whose every
function fails lets the library load; nothing of it is called while compiling.
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import tvm
import tvm_ffi

from tvm_insta.codegen.elf import ElfFile
from tvm_insta.errors import ToolchainError
from tvm_insta.target import InstaTarget
from tvm_insta.target.toolchain import find_linker, nvcc

_DRIVER = (
    "cuDeviceGetName",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuLaunchKernelEx",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuTensorMapEncodeTiled",
)
_LOADER = "ffi.Module.load_from_bytes.cuda"
_SETTINGS = {
    "TVM_CUDA_COMPILE_MODE": "nvcc",
    # Fast arithmetic flushes subnormal numbers and approximates division and tanh: it would move
    # thresholds, and with them bits.
    "TVM_CUDA_NVCC_NO_FAST_MATH": "1",
}
# TVM puts what nvcc said behind the whole CUDA source and this line.
_NVCC_SAID = "\nCompilation error:\n"
_ERROR_LINES = 5


def find_nvcc() -> Path:
    """NVIDIA's compiler.

    Raises:
        ToolchainError: it is not installed.
    """
    compiler = nvcc()
    if compiler is None:
        raise ToolchainError(
            "no nvcc was found ($CUDA_HOME, the PATH, /usr/local/cuda): a cuda target needs "
            "NVIDIA's CUDA toolkit to compile its kernels, though neither a card nor a driver"
        )
    return compiler


@contextmanager
def device_compiler(target: InstaTarget) -> Iterator[None]:
    """Within the block, TVM compiles CUDA kernels with nvcc and embeds the binary.

    Raises:
        ToolchainError: nvcc is not installed or refuses the kernels, or CUDA's libraries cannot be
            loaded.
    """
    compiler = find_nvcc()
    _load_cuda_runtime(target, compiler)
    path = f"{compiler.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        # TVM asks the current target for the architecture.
        with _environment({**_SETTINGS, "PATH": path}), target.tvm:
            yield
    except RuntimeError as error:
        _, failed, said = str(error).rpartition(_NVCC_SAID)
        if not failed:
            raise
        lines = [line for line in said.splitlines() if line.strip()]
        raise ToolchainError(
            f"{compiler} could not compile the kernels for {target.mcpu}:\n"
            + "\n".join(lines[-_ERROR_LINES:])
        ) from error


def device_modules(module: tvm.runtime.Module) -> list[tvm.runtime.Module]:
    """The CUDA modules that a compiled module holds."""
    own = [module] if module.kind == "cuda" else []
    return own + [found for each in module.imports for found in device_modules(each)]


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@functools.cache
def _load_cuda_runtime(target: InstaTarget, compiler: Path) -> None:
    if tvm_ffi.get_global_func(_LOADER, allow_missing=True) is not None:
        return
    library = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    try:
        try:
            ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
        except OSError:
            with tempfile.TemporaryDirectory(prefix="tvm_insta-cuda-") as folder:
                ctypes.CDLL(str(_stand_in(target, Path(folder))), ctypes.RTLD_GLOBAL)
        for path in toolkit_libraries(library, compiler):
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ToolchainError(
            f"TVM's CUDA library cannot be loaded ({error}): install the CUDA toolkit of the major "
            "version that apache-tvm was built with, libraries included"
        ) from error


def toolkit_libraries(library: Path, compiler: Path) -> list[Path]:
    """What `library` needs of CUDA's run time and the toolkit of the nvcc `compiler` has.

    A toolkit's folder need not be on the dynamic loader's path: conda's never is.
    """
    roots = (compiler.parents[1], compiler.resolve().parents[1])
    folders = [root / name for root in dict.fromkeys(roots) for name in ("lib64", "lib")]
    names = [name for name in ElfFile(library).needed() if name.startswith("libcudart")]
    found = [[path for folder in folders if (path := folder / name).is_file()] for name in names]
    return [paths[0] for paths in found if paths]


def _stand_in(target: InstaTarget, folder: Path) -> Path:
    """A libcuda.so.1 whose functions return CUDA_ERROR_NO_DEVICE."""
    source, code = folder / "driver.c", folder / "driver.o"
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in _DRIVER), "utf-8")
    library = folder / "libcuda.so.1"
    linker = find_linker(target)
    linker.compile_c(source, code)
    linker.link_shared([code], library, "-Wl,-soname,libcuda.so.1")
    return library
