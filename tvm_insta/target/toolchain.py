"""Finding the C compiler that links for a target, and running it.

TVM writes object files for any CPU, but only a toolchain of the target's system makes a shared
library of them. Searched for a native build: $CC, cc, gcc, clang; for a cross build: the
distribution's cross gcc, clang with lld and a libc for the target. Last, for both: the `ziglang`
wheel, a C compiler for every target that pip installs without root.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_insta.errors import ToolchainError
from tvm_insta.target import InstaTarget, llvm_info
from tvm_insta.target.triples import arch_of

# The oldest C library that the apache-tvm wheels run with, so the oldest a board can have.
_GLIBC = "2.28"
_ZIG_ARCH = {"x86_64": "x86_64", "aarch64": "aarch64", "arm": "arm", "riscv64": "riscv64"}
_WASI = "wasm32-wasi"
_ZIG_SYSTEM = re.compile(rf"-linux-gnu(|eabihf)\.{re.escape(_GLIBC)}$")
_PROBE = "#include <math.h>\nfloat probe(float x) { return tanhf(x); }\n"
_ERROR_LINES = 5


@dataclass(frozen=True)
class Linker:
    """A C compiler driver that also links, with the archiver that belongs to it.

    Attributes:
        command: the compiler and the arguments that choose the target.
        ar: the archiver, and arguments that go before its own.
        description: how a message names it.
    """

    command: tuple[str, ...]
    ar: tuple[str, ...]
    description: str

    def __post_init__(self) -> None:
        """Refuse empty commands."""
        if not self.command or not self.ar:
            raise ToolchainError("a linker needs the command of a compiler and of an archiver.")

    def compile_c(self, source: Path, out: Path, *flags: str) -> None:
        """Compile one C file to an object file.

        Args:
            source: the C file.
            out: the object file to write.
            flags: options that both gcc and clang know; -march is not one of them, since zig has
                names of its own for CPUs.

        Raises:
            ToolchainError: with the compiler's last lines.
        """
        command = (*self.command, "-c", *flags, str(source), "-o", str(out))
        _run(command, f"{self.description} could not compile {source.name}")

    def link_shared(self, objects: Sequence[Path], out: Path, *flags: str) -> None:
        """Link objects and archives to a shared library.

        Args:
            objects: object files and static archives, in the order the linker shall see them.
            out: the library to write.
            flags: put behind the objects, so that `-lm` works with every linker.

        Raises:
            ToolchainError: with the linker's last lines.
        """
        # Else zig leaves 1 MB of its own runtime, most of it debug data, in a library for Arm.
        lean = ("-Wl,--strip-debug", "-Wl,--gc-sections")
        head = (*self.command, "-shared", "-fPIC", *lean)
        command = (*head, *map(str, objects), "-o", str(out), *flags)
        _run(command, f"{self.description} could not link {out.name}")

    def link_program(
        self, parts: Sequence[Path], out: Path, *flags: str, static: bool = False
    ) -> None:
        """Compile and link C files, objects and archives to a program.

        Args:
            parts: C files, objects and archives, in the order the linker shall see them.
            out: the program to write.
            flags: put behind the parts.
            static: without any library of the target's system. zig takes its own C library for it.

        Raises:
            ToolchainError: with the last lines of compiler or linker.
        """
        command = [*self.command, *map(str, parts), "-o", str(out), *flags]
        if static:
            command = [_static_system(word) for word in command] + ["-static"]
        _run(command, f"{self.description} could not link {out.name}")

    def archive(self, objects: Sequence[Path], out: Path) -> None:
        """Write a static archive of exactly these objects, with zero time stamps.

        Raises:
            ToolchainError: with the archiver's last lines.
        """
        out.unlink(missing_ok=True)  # ar would add to what is there
        command = (*self.ar, "rcsD", str(out), *map(str, objects))
        _run(command, f"the archiver of {self.description} could not write {out.name}")


def find_linker(target: InstaTarget) -> Linker:
    """The linker for a target; of a cuda target, for its host.

    Raises:
        ToolchainError: none is installed; the sentence says how to get one.
    """
    if target.host is not None:
        return find_linker(target.host)
    if target.triple == _WASI:
        return _wasi()
    if target.arch not in _ZIG_ARCH or "linux" not in target.triple:
        raise ToolchainError(
            f"no linker is known here for {target.triple}: only Linux on "
            f"{', '.join(_ZIG_ARCH)} is linked, and {_WASI}."
        )
    native = arch_of(llvm_info.host_triple()) == target.arch and sys.platform == "linux"
    found = _native() if native else _cross(target.arch, target.triple)
    found = found or _zig(target.arch, target.triple)
    if found is not None:
        return found
    package = f"gcc-{_gnu_triple(target.arch, target.triple)}"
    if native:
        raise ToolchainError(
            "no C compiler was found ($CC, cc, gcc, clang): install the distribution's (package "
            'gcc on Debian), or run pip install "tvm-insta[cross]".'
        )
    raise ToolchainError(
        f"no linker for {target.triple} was found: install the distribution's cross compiler "
        f'(package {package} on Debian), or run pip install "tvm-insta[cross]".'
    )


def nvcc() -> Path | None:
    """NVIDIA's compiler: of $CUDA_HOME or $CUDA_PATH, on the PATH, or in /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    for home in filter(None, homes):
        if found := shutil.which("nvcc", path=str(Path(home) / "bin")):
            return Path(found)
    found = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    return Path(found) if found else None


def _native() -> Linker | None:
    given = os.environ.get("CC", "").strip()
    if given:
        command = tuple(shlex.split(given))
        if shutil.which(command[0]) is None:
            raise ToolchainError(
                f"$CC is {given!r}, but there is no program {command[0]}: unset CC."
            )
        return Linker(command, _native_ar(), f"{given} ($CC)")
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return Linker((path,), _native_ar(), path)
    return None


def _native_ar() -> tuple[str, ...]:
    path = shutil.which("ar") or shutil.which("llvm-ar")
    if path:
        return (path,)
    return _zig_command("ar") if _has_zig() else ("ar",)


def _cross(arch: str, triple: str) -> Linker | None:
    gnu = _gnu_triple(arch, triple)
    for name in dict.fromkeys((triple, gnu)):
        path, ar = shutil.which(f"{name}-gcc"), shutil.which(f"{name}-ar")
        if path and ar:
            return Linker((path,), (ar,), path)
    path, ar = shutil.which("clang"), shutil.which("llvm-ar")
    if path and ar and shutil.which("ld.lld"):
        linker = Linker((path, f"--target={gnu}", "-fuse-ld=lld"), (ar,), f"{path} --target={gnu}")
        # clang is a compiler for every target, but brings no C library for any.
        return linker if _can_link(linker) else None
    return None


def _zig(arch: str, triple: str) -> Linker | None:
    if not _has_zig():
        return None
    system = "linux-" + triple.rpartition("-")[2]
    glibc = f".{_GLIBC}" if system.startswith("linux-gnu") else ""
    target = f"{_ZIG_ARCH[arch]}-{system}{glibc}"
    # Always with a target: without one zig compiles for the very CPU it runs on. It also adds debug
    # data and traps for undefined behaviour where gcc and clang do not.
    command = (*_zig_command("cc"), "-target", target, "-g0", "-fno-sanitize=undefined")
    return Linker(command, _zig_command("ar"), f"zig cc -target {target}")


def _wasi() -> Linker:
    if not _has_zig():
        raise ToolchainError(
            f'no linker for {_WASI} was found: run pip install "tvm-insta[cross]".'
        )
    command = (*_zig_command("cc"), "-target", _WASI, "-g0", "-fno-sanitize=undefined")
    return Linker(command, _zig_command("ar"), f"zig cc -target {_WASI}")


def _zig_command(tool: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ziglang", tool)


def _has_zig() -> bool:
    return importlib.util.find_spec("ziglang") is not None


def _gnu_triple(arch: str, triple: str) -> str:
    """The name under which distributions ship cross compilers: `arm-linux-gnueabihf`."""
    return f"{_ZIG_ARCH[arch]}-linux-{triple.rpartition('-')[2]}"


def _static_system(word: str) -> str:
    """Zig links statically against musl only, and names it in the target."""
    return _ZIG_SYSTEM.sub(r"-linux-musl\1", word)


@functools.cache
def _can_link(linker: Linker) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "probe.c", Path(folder) / "probe.so"
        source.write_text(_PROBE, encoding="utf-8")
        try:
            linker.link_shared([source], library, "-lm")
        except ToolchainError:
            return False
    return True


def _run(command: Sequence[str], failure: str) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise ToolchainError(
            f"{failure}: {command[0]} did not start ({error.strerror})."
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        said = "\n".join(lines[-_ERROR_LINES:]) or "it printed nothing"
        raise ToolchainError(f"{failure} (exit code {done.returncode}):\n{said}")
