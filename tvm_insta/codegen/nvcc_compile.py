"""TVM's CUDA source to a fat binary: machine code for the target's cards, PTX for later ones.

The PTX is not compressed, so that the emulated device can execute the artefact as it is shipped.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tvm_insta.errors import ToolchainError

_ERROR_LINES = 5
_THREADS = 512  # of a multiprocessor, which has 65536 registers
_LARGE = 256  # threads of a block
# Without -fmad=false nvcc fuses products and sums as it likes, and leaves to ptxas what it did not
# fuse: the bits would not be the CPU's. TVM writes the fused products that it means itself.
_EXACT = ("-O3", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true")
_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>[^']+)' for '(?P<arch>\w+)'(?P<rest>.*?)"
    r"Used (?P<registers>\d+) registers(?P<used>[^\n]*)",
    re.DOTALL,
)
_FRAME = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads"
)
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class KernelResources:
    """What ptxas says that a kernel takes.

    Attributes:
        name: its symbol.
        arch: such as "sm_90".
        registers: of a thread.
        stack_bytes: of local memory of a thread, which lies in the device's memory.
        spill_bytes: stores and loads of registers that did not fit.
        shared_bytes: static shared memory of a block.
    """

    name: str
    arch: str
    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class DeviceCode:
    """A fat binary, and what its kernels take."""

    image: bytes
    kernels: tuple[KernelResources, ...]


def _with_registers(source: str) -> str:
    """The source with 128 registers for each thread of a large block.

    TVM says how many threads a block has, and no more. For large blocks ptxas aims at as many of
    them at a time as there can be, and moves registers to the memory of the device for it.
    """

    def bounds(found: re.Match[str]) -> str:
        threads = int(found[1])
        if threads < _LARGE:
            return found[0]
        return f"__launch_bounds__({threads}, {max(1, _THREADS // threads)})"

    return re.sub(r"__launch_bounds__\((\d+)\)", bounds, source)


def compile_device_code(source: str, arch: str, compiler: Path) -> DeviceCode:
    """Compile CUDA source.

    Args:
        source: CUDA C++.
        arch: the oldest card that shall run it, such as "sm_90".
        compiler: nvcc.

    Raises:
        ToolchainError: nvcc refuses the source; with its last lines.
    """
    virtual = arch.replace("sm_", "compute_")
    with tempfile.TemporaryDirectory(prefix="tvm_insta-nvcc-") as folder:
        file, out = Path(folder) / "kernels.cu", Path(folder) / "kernels.fatbin"
        file.write_text(_with_registers(source), encoding="utf-8")
        command = [
            str(compiler),
            *("-fatbin", "--no-compress", "-Xptxas", "-v", *_EXACT),
            *("-gencode", f"arch={virtual},code=[{arch},{virtual}]"),
            *(str(file), "-o", str(out)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if done.returncode or not out.is_file():
            lines = [line for line in said.splitlines() if line.strip()]
            lines = [line for line in lines if not line.startswith(("ptxas info", " "))] or lines
            raise ToolchainError(
                f"{compiler} could not compile the kernels for {arch}:\n"
                + "\n".join(lines[-_ERROR_LINES:])
            )
        return DeviceCode(out.read_bytes(), tuple(resources(said)))


def ptx_resources(ptx: str, arch: str, compiler: Path) -> list[KernelResources]:
    """What ptxas says that the kernels of a PTX text take on a card.

    Raises:
        ToolchainError: it refuses the text.
    """
    with tempfile.TemporaryDirectory(prefix="tvm_insta-nvcc-") as folder:
        file = Path(folder) / "kernels.ptx"
        file.write_text(ptx, encoding="utf-8")
        command = [str(compiler), "-cubin", f"-arch={arch}", "-Xptxas", "-v", str(file)]
        command += ["-o", str(file.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolchainError(f"{compiler} refuses the PTX for {arch}: {done.stderr.strip()}")
        return resources(done.stdout + done.stderr)


def resources(said: str) -> list[KernelResources]:
    """What `ptxas -v` wrote, kernel by kernel."""
    result = []
    for found in _ENTRY.finditer(said):
        frame = _FRAME.search(found["rest"])
        shared = _SHARED.search(found["used"])
        stack, stores, loads = map(int, frame.groups()) if frame else (0, 0, 0)
        result.append(
            KernelResources(
                found["name"],
                found["arch"],
                int(found["registers"]),
                stack,
                stores + loads,
                int(shared[1]) if shared else 0,
            )
        )
    return result
