"""CUDA kernels to device code on a machine that may have no card and no driver.

TVM embeds compiled device code only when its CUDA run-time library is loaded, and that library asks
for the driver's libcuda.so.1, which comes with a card. Where there is none, the libraries of the
emulated device let it load, or, without a C++ compiler, a stand-in whose every function fails;
nothing of them is called while compiling.
"""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tvm
import tvm_ffi

from tvm_insta import cuda_emulator
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.codegen.nvcc_compile import KernelResources, compile_device_code
from tvm_insta.cuda_emulator import cuda_c
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
_CALLBACK = "tvm_callback_cuda_compile"


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
def device_compiler(
    target: InstaTarget, *, source_only: bool = False
) -> Iterator[list[KernelResources]]:
    """Within the block, TVM compiles CUDA kernels with nvcc and embeds the binary.

    Args:
        target: kind "cuda".
        source_only: embed the CUDA C itself. Only the emulated device runs that, and no nvcc is
            needed, see `cuda_emulator.cuda_c`.

    Yields:
        A list, which then holds what each compiled kernel takes.

    Raises:
        ToolchainError: nvcc is not installed or refuses the kernels, or CUDA's libraries cannot be
            loaded.
    """
    compiler = None if source_only else find_nvcc()
    _load_cuda_runtime(target, compiler)
    failures: list[ToolchainError] = []
    found: list[KernelResources] = []

    def compile_source(source: str) -> bytes:
        if compiler is None:
            return cuda_c.image(source, target.mcpu)
        try:
            made = compile_device_code(source, target.mcpu, compiler)
        except ToolchainError as error:
            failures.append(error)  # on its way through C++ it would lose its type
            raise
        found.extend(made.kernels)
        return made.image

    before = tvm_ffi.get_global_func(_CALLBACK)
    tvm_ffi.register_global_func(_CALLBACK, compile_source, override=True)
    try:
        with target.tvm:
            yield found
    except Exception:
        if failures:
            raise failures[0] from None
        raise
    finally:
        tvm_ffi.register_global_func(_CALLBACK, before, override=True)


def device_modules(module: tvm.runtime.Module) -> list[tvm.runtime.Module]:
    """The CUDA modules that a compiled module holds."""
    own = [module] if module.kind == "cuda" else []
    return own + [found for each in module.imports for found in device_modules(each)]


@functools.cache
def _load_cuda_runtime(target: InstaTarget, compiler: Path | None) -> None:
    if tvm_ffi.get_global_func(_LOADER, allow_missing=True) is not None:
        return
    library = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    try:
        if not _load_driver(target):
            for path in toolkit_libraries(library, compiler) if compiler else ():
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ToolchainError(
            f"TVM's CUDA library cannot be loaded ({error}): install the CUDA toolkit of the major "
            "version that apache-tvm was built with, libraries included"
        ) from error


def _load_driver(target: InstaTarget) -> bool:
    """Load a libcuda.so.1: the driver's, else a stand-in; whether CUDA's run time came with it."""
    try:
        ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
        return cuda_emulator.is_installed()
    except OSError:
        pass
    try:
        cuda_emulator.install()
        return True
    except cuda_emulator.EmulatorError:
        with tempfile.TemporaryDirectory(prefix="tvm_insta-cuda-") as folder:
            ctypes.CDLL(str(_stand_in(target, Path(folder))), ctypes.RTLD_GLOBAL)
        return False


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
