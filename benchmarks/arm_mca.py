"""Cycles of a kernel's inner loop as llvm-mca models them: no cache misses, perfect prediction."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from benchmarks.arm_qemu import Core
from tvm_insta.errors import ToolchainError

_LABEL = re.compile(r"^(\.LBB\w+):")
_BRANCH = re.compile(r"^\s+(?:b\.?\w+|cbn?z\s+\w+,|tbn?z\s+.*,)\s+(\.LBB\w+)\s*$")
_INSTRUCTION = re.compile(r"^\s+[a-z]")
_COUNT = re.compile(r"\bv?cnt(\.8)?\s")
_CYCLES = re.compile(r"^Total Cycles:\s+(\d+)$", re.MULTILINE)
_ITERATIONS = 100
_VERSIONS = range(30, 12, -1)


@dataclass(frozen=True)
class Loop:
    """The loop of a kernel that counts most bits.

    Attributes:
        lines: its instructions as assembly.
        products: binary multiply-accumulates of one iteration: 128 for each count of a q register.
    """

    lines: tuple[str, ...]
    products: int

    @property
    def instructions(self) -> float:
        """Instructions per 128 binary multiply-accumulates."""
        return len(self.lines) * 128 / self.products


def inner_loop(assembly: str) -> Loop:
    """Find the innermost loop with most counts.

    Raises:
        ValueError: no loop counts bits.
    """
    lines = assembly.splitlines()
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for i, line in enumerate(lines):
        if match := _LABEL.match(line):
            labels[match[1]] = i
        elif (match := _BRANCH.match(line)) and match[1] in labels:
            loops.append((labels[match[1]], i))
    best: Loop | None = None
    for first, last in loops:
        if any((a, b) != (first, last) and first <= a and b <= last for a, b in loops):
            continue
        body = tuple(line for line in lines[first : last + 1] if _INSTRUCTION.match(line))
        products = 128 * sum(bool(_COUNT.search(line)) for line in body)
        if products and (best is None or products > best.products):
            best = Loop(body, products)
    if best is None:
        raise ValueError("the kernel has no loop that counts bits")
    return best


def program() -> str | None:
    """llvm-mca of the newest version on the PATH, or None."""
    names = [f"llvm-mca-{version}" for version in _VERSIONS]
    return next(filter(None, map(shutil.which, [*names, "llvm-mca"])), None)


def version(mca: str) -> str:
    """The version of an llvm-mca, such as "19.1.7"."""
    said = subprocess.run([mca, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"version (\S+)", said)
    return match[1] if match else "unknown"


def cycles(mca: str, loop: Loop, core: Core) -> float:
    """Modelled cycles per 128 binary multiply-accumulates.

    Raises:
        ToolchainError: llvm-mca fails, on a core it does not know, for example.
    """
    target = core.parsed
    command = [mca, f"-mtriple={target.triple}", f"-mcpu={core.name}", "-all-views=false"]
    if target.arch == "arm":
        command.append("-mattr=+neon")
    done = subprocess.run(
        [*command, "-summary-view", f"-iterations={_ITERATIONS}"],
        input="\n".join(loop.lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    found = _CYCLES.search(done.stdout)
    if found is None:
        said = done.stderr.strip().splitlines() or ["it printed nothing"]
        raise ToolchainError(f"{mca} gives no cycles for {core.name}: {said[0]}")
    return int(found[1]) / _ITERATIONS * 128 / loop.products
