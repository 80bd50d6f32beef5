"""Single binary layers for `benchmarks.arm`: compiled as a model's are, counted and modelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import tvm

from benchmarks.arm_figures import LARQ_CYCLES, Row
from benchmarks.arm_qemu import Core, count_calls, kernel_main, link_static
from benchmarks.kernels import binary_layer
from tvm_insta.codegen import raw
from tvm_insta.codegen.parts import serial
from tvm_insta.errors import ToolchainError
from tvm_insta.passes.pipeline import fuse
from tvm_insta.schedules import schedule_module
from tvm_insta.tuning import llvm_mca
from tvm_insta.tuning.assembly import Loop, hot_loop

CALLS = 10


def measure_layers(
    core: Core, layers: Sequence[tuple[int, int]], mca: str | None, folder: Path
) -> list[Row]:
    """Count and model the binary 3x3 layers (image side, channels) on a core.

    Args:
        core: to compile for.
        layers: image side and channels of each.
        mca: path of llvm-mca; None leaves out the cycles.
        folder: for what is built.

    Raises:
        ToolchainError: there is no cross compiler or no emulator.
    """
    rows = []
    for side, channels in layers:
        products = side * side * channels * channels * 9
        counts, assembly = {}, ""
        for epilogue in (True, False):
            calls, assembly = _count(core, side, channels, epilogue, folder)
            counts[epilogue] = calls * 128 / products
        loop = hot_loop(assembly, "insta_bconv")
        rows.append(
            Row(
                core.name,
                f"{side}x{side}x{channels}",
                counts[False],
                counts[True],
                len(loop.lines) * 128 / loop.macs,
                _cycles(mca, loop, core),
                LARQ_CYCLES.get(core.name),
            )
        )
    return rows


def _cycles(mca: str | None, loop: Loop, core: Core) -> float | None:
    if mca is None:
        return None
    try:
        return llvm_mca.cycles(mca, core.parsed, loop) * 128 / loop.macs
    except ToolchainError:
        return None


def _count(core: Core, side: int, channels: int, epilogue: bool, folder: Path) -> tuple[float, str]:
    """(instructions of one call, the kernel's assembly)."""
    target = core.parsed
    kernels = fuse(binary_layer(side, channels, target, epilogue))
    scheduled, (record,) = schedule_module(kernels, target.tvm, lanes=target.lanes)
    function = serial(scheduled[record.function])  # one function, without parts for threads
    stem = folder / f"{core.name}-{side}-{channels}-{int(epilogue)}"
    made = raw.lower({"kernel": function}, target.tvm, "bench", stem.with_suffix(".o"))
    parameters = [
        (_bytes(parameter), str(parameter.dtype) == "int32" and len(parameter.shape) == 1)
        for parameter in function.params
    ]
    kernel = made.kernels["kernel"]
    source = stem.with_suffix(".c")
    source.write_text(kernel_main("bench_kernel", parameters, (*kernel.shared, *kernel.own)))
    link_static(core, [source, made.object_file], stem)
    return count_calls(core, stem, CALLS), raw.assembly({"kernel": function}, target.tvm)


def _bytes(buffer: tvm.ir.Expr) -> int:
    size = tvm.DataType(str(buffer.dtype)).bits // 8
    return math.prod(int(extent) for extent in buffer.shape) * size
