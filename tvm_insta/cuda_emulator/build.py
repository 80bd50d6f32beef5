"""C++ of the emulator to shared libraries, by this machine's compiler, once for each content.

They are kept in `cache_folder()`, under the hash of all that went into them. A library appears
there whole or not at all, so several processes may work at once.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tvm_insta.errors import EmulatorError

NATIVE = Path(__file__).parent / "native"
"""The C++ sources of the emulator."""

DRIVER, RUNTIME = "libcuda.so.1", "libcudart.so.13"
_PARTS = ("engine", "threads", "memory", "counts", "warps", "streams", "control", "alone", "driver")
_COMPILERS = ("c++", "g++", "clang++")
# No product is fused with a sum, and no type is taken for a promise about memory.
_EXACT = (
    "-std=c++17",
    "-O1",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-w",
    "-fPIC",
    "-shared",
)
_ERROR_LINES = 3
_FAST_CPU = ("fma", "popcnt", "avx2", "bmi1", "bmi2")


def cache_folder() -> Path:
    """Where libraries are kept: in XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tvm_insta" / "cuda_emulator"


def find_compiler() -> str:
    """A C++ compiler: $CXX, c++, g++ or clang++.

    Raises:
        EmulatorError: none is installed.
    """
    given = os.environ.get("CXX")
    for name in (given, *_COMPILERS):
        found = shutil.which(name) if name else None
        if found is not None:
            return found
    raise EmulatorError(
        "the emulated device is compiled on first use, and no C++ compiler was found ($CXX, c++, "
        "g++, clang++): install the distribution's (package g++ on Debian)"
    )


def build_kernels(source: str, *, counts: bool = False) -> Path:
    """The library of a translated module; with `counts`, of PTX, it counts its instructions.

    Raises:
        EmulatorError: there is no compiler, or it refuses the file.
    """
    headers = b"".join((NATIVE / name).read_bytes() for name in ("device.h", "cuda_c.h"))
    flags = (f"-I{NATIVE}", *_processor(), *(("-DEMU_COUNTS",) if counts else ()))
    return _built("kernels.so", source, flags, headers)


def build_driver() -> tuple[Path, Path]:
    """The stand-ins for the driver and for CUDA's run time, in this order.

    Raises:
        EmulatorError: there is no compiler, or it refuses the files.
    """
    sources = b"".join(path.read_bytes() for path in sorted(NATIVE.iterdir()))
    both = "".join(f'#include "{name}.cpp"\n' for name in _PARTS)
    flags = (f"-I{NATIVE}", "-O2", *_processor(), f"-Wl,-soname,{DRIVER}", "-ldl")
    driver = _built(DRIVER, both, flags, sources)
    script = f"-Wl,--version-script={NATIVE / 'runtime.map'}"
    flags = (f"-I{NATIVE}", f"-Wl,-soname,{RUNTIME}", script, str(driver))
    runtime = _built(RUNTIME, '#include "runtime.cpp"\n', flags, sources)
    return driver, runtime


def _built(name: str, source: str, flags: Sequence[str], headers: bytes) -> Path:
    compiler = find_compiler()
    parts = [compiler, _version(compiler), *_EXACT, *flags, source]
    key = hashlib.sha256("\0".join(parts).encode() + headers).hexdigest()[:32]
    folder = cache_folder() / key
    library = folder / name
    if library.is_file():
        return library
    try:
        cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="new-") as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            _compile(compiler, source, flags, made, name)
            try:
                made.rename(folder)
            except OSError:
                if not library.is_file():  # else another process was faster
                    raise
    except OSError as error:
        raise EmulatorError(
            f"the emulator's libraries cannot be kept in {cache_folder()} ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return library


def _compile(compiler: str, source: str, flags: Sequence[str], folder: Path, name: str) -> None:
    file = folder / "source.cpp"
    file.write_text(source, encoding="utf-8")
    command = [compiler, *_EXACT, str(file), *flags, "-o", str(folder / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise EmulatorError(
            f"{compiler} could not compile the emulator's code: {'; '.join(lines[:_ERROR_LINES])}"
        )


@functools.cache
def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout


@functools.cache
def _processor() -> tuple[str, ...]:
    """Options for fused products and popcounts as instructions, where this machine has them."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    flags = set(line.split())
    return (
        tuple(f"-m{flag.replace('bmi1', 'bmi')}" for flag in _FAST_CPU)
        if flags.issuperset(_FAST_CPU)
        else ()
    )
