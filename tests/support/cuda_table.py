"""What ptxas makes of a network's kernels, by family and architecture: a table in docs/cuda.md.

    python -m tests.support.cuda_table          # writes it anew

Registers depend on the version of nvcc, which the table names.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from tvm_insta import nn
from tvm_insta.codegen.cuda_device import device_modules, find_nvcc
from tvm_insta.codegen.nvcc_compile import compile_device_code
from tvm_insta.codegen.relax_vm import build_executable
from tvm_insta.frontend import import_torch
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.target import parse

MODEL, VARIANT, SIZE = "resnet18", "insta", 224
SAME_SOURCE = (("sm_75",), ("sm_80", "sm_86", "sm_89", "sm_90"), ("sm_100", "sm_120"))
"""Architectures whose kernels are the same before ptxas."""

FAMILIES = (
    ("binary convolution", "bitserial_conv2d"),
    ("float layer", "conv2d_blocked"),
    ("channels", "moment_rows"),
    ("other", ""),
)
OPCODES = ("BMMA", "IMMA", "POPC")
PAGE = Path(__file__).parents[2] / "docs" / "cuda.md"
BEGIN, END = "<!-- ptxas: begin -->\n", "<!-- ptxas: end -->\n"


@dataclass(frozen=True)
class Row:
    """The kernels of one family on one architecture; the largest figure of any.

    Attributes:
        opcodes: instructions of each of `OPCODES` that they have in all, None without cuobjdump.
    """

    arch: str
    family: str
    kernels: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    stack_bytes: int
    opcodes: dict[str, int] | None


def nvcc_version() -> str:
    """Such as "13.0"."""
    said = subprocess.run([find_nvcc(), "--version"], capture_output=True, text=True, check=True)
    return re.search(r"release (\d+\.\d+)", said.stdout)[1]


def find_cuobjdump() -> Path | None:
    """NVIDIA's disassembler: beside nvcc, on the PATH, or of the wheel nvidia-cuda-cuobjdump."""
    wheel = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"
    folders = (find_nvcc().parent, find_nvcc().resolve().parent, wheel)
    found = [shutil.which("cuobjdump", path=str(folder)) for folder in folders]
    found.append(shutil.which("cuobjdump"))
    return next((Path(each) for each in found if each), None)


def rows() -> list[Row]:
    """All rows, compiled now."""
    network = nn.create(MODEL, VARIANT).eval()
    imported = import_torch(network, [torch.zeros(1, 3, SIZE, SIZE)], max_batch=4, dynamic=True)
    made = []
    for archs in SAME_SOURCE:
        target = parse(f"cuda -arch={archs[0]}")
        compiled = run_pipeline(imported, Context(target))
        (module,) = device_modules(build_executable(compiled.mod, target).mod)
        for arch in archs:
            made += _rows_of(arch, module.inspect_source())
    return made


def _rows_of(arch: str, source: str) -> list[Row]:
    code = compile_device_code(source, arch, find_nvcc())
    opcodes = _opcodes(code.image)
    made = []
    for family, _ in FAMILIES:
        mine = [kernel for kernel in code.kernels if _family(kernel.name) == family]
        counts = None
        if opcodes is not None:
            total = sum((opcodes[kernel.name] for kernel in mine), Counter())
            counts = {name: total[name] for name in OPCODES}
        made.append(
            Row(
                arch,
                family,
                len(mine),
                max(kernel.registers for kernel in mine),
                max(kernel.shared_bytes for kernel in mine),
                max(kernel.spill_bytes for kernel in mine),
                max(kernel.stack_bytes for kernel in mine),
                counts,
            )
        )
    return made


def _family(name: str) -> str:
    return next(family for family, mark in FAMILIES if mark in name)


def _opcodes(image: bytes) -> dict[str, Counter[str]] | None:
    """Opcodes of each kernel, without their modifiers."""
    tool = find_cuobjdump()
    if tool is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernels.fatbin"
        file.write_bytes(image)
        command = [str(tool), "-sass", str(file)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"Function : (\w+)", text)[1:]
    return {
        name: Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z]\w*)", body, re.M))
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def render(found: list[Row], version: str) -> str:
    """The table."""
    lines = [
        f"{MODEL} `{VARIANT}` at {SIZE}x{SIZE}, nvcc {version}; the largest of all kernels of a "
        "family, instructions in all.",
        "",
        "| card | family | kernels | registers | shared bytes | spills, local memory | "
        + " | ".join(OPCODES)
        + " |",
        "| --- | --- | --- | --- | --- | --- |" + " --- |" * len(OPCODES),
    ]
    for row in found:
        counts = [str((row.opcodes or {}).get(name, "?")) for name in OPCODES]
        memory = row.spill_bytes + row.stack_bytes
        cells = (row.arch, row.family, row.kernels, row.registers, row.shared_bytes, memory)
        lines.append("| " + " | ".join([*map(str, cells), *counts]) + " |")
    return "\n".join(lines) + "\n"


def written() -> str:
    """The table as docs/cuda.md has it."""
    return PAGE.read_text("utf-8").split(BEGIN)[1].split(END)[0]


def write(table: str) -> None:
    """Put a table into docs/cuda.md."""
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table + END + rest.split(END)[1], "utf-8")


def main() -> int:
    """Write the table anew."""
    found = rows()
    if any(row.opcodes is None for row in found):
        print("cuobjdump is not installed: the table needs it", file=sys.stderr)
        return 2
    write(render(found, nvcc_version()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
