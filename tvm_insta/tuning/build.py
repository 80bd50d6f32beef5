"""A workload with chosen parameters as machine code: a library, a program, or assembly."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import IRModule

from tvm_insta.codegen import raw
from tvm_insta.codegen.cuda_device import device_compiler
from tvm_insta.codegen.nvcc_compile import KernelResources
from tvm_insta.codegen.parts import serial
from tvm_insta.codegen.relax_vm import TIR_PIPELINE
from tvm_insta.errors import TuneError
from tvm_insta.schedules import Tiles, back_end, schedule_module
from tvm_insta.target import InstaTarget
from tvm_insta.target.toolchain import find_linker
from tvm_insta.tuning.workload import arguments_of, outputs_of

SYMBOL = "kernel"
_MAIN = Path(__file__).with_name("icount_main.c")


def scheduled(mod: IRModule, target: InstaTarget, tiles: Tiles | None) -> tirx.PrimFunc:
    """The workload scheduled with exactly these parameters; None leaves it unscheduled.

    Raises:
        TuneError: the rule does not take the parameters.
    """
    if tiles is None:
        return mod["main"]
    result, (record,) = schedule_module(
        mod, target.tvm, lanes=target.lanes, parameters={"main": tiles}
    )
    if record.tiles != tiles:
        raise TuneError(
            f"the schedule did not take {tiles}: {record.reason or 'it chose ' + str(record.tiles)}"
        )
    return result["main"]


def build(
    mod: IRModule,
    target: InstaTarget,
    tiles: Tiles | None,
    form: str,
    out: Path,
    *,
    threads: int = 1,
) -> None:
    """Write the workload's machine code to `out`.

    Args:
        mod: canonical workload.
        target: what to compile for.
        tiles: parameters; None compiles the function as it was defined, without a schedule.
        form: "library" (shared, TVM's calling convention, function "kernel"; with what ptxas says
            of it beside it for CUDA), "program"
            (static, the kernel as the plain-C form has it, see icount_main.c) or "assembly".
        out: the file.
        threads: 1 compiles parallel loops as serial ones, as the plain-C form has them.

    Raises:
        TuneError: the rule does not take the parameters.
        CodegenError, ToolchainError: as the compiler.
    """
    function = scheduled(mod, target, tiles)
    if form == "program":
        _program(mod, function, target, out)
        return
    device = back_end(target.tvm).device_code
    if threads == 1 and not device:
        function = serial(function)
    module = IRModule({SYMBOL: function.with_attr("global_symbol", SYMBOL)})
    if device:
        with device_compiler(target) as resources:
            executable = tvm.compile(module, target=target.tvm, tir_pipeline="s_tir")
        write_resources(out, resources)
    else:
        executable = tvm.compile(module, target=target.tvm, tir_pipeline=TIR_PIPELINE)
    if form == "assembly":
        out.write_text(executable.mod.inspect_source("asm"), encoding="utf-8")
        return
    linker = find_linker(target)

    def link(library: str, objects: Iterable[str], **_: object) -> None:
        linker.link_shared([Path(item) for item in objects], Path(library), "-lm")

    executable.export_library(str(out), fcompile=link)


def write_resources(library: Path, found: Sequence[KernelResources]) -> None:
    """Note what the kernels of a library for CUDA take, beside it."""
    text = json.dumps([dataclasses.asdict(each) for each in found])
    resources_path(library).write_text(text, encoding="utf-8")


def read_resources(library: Path) -> list[KernelResources]:
    """What `write_resources` noted."""
    listed = json.loads(resources_path(library).read_text(encoding="utf-8"))
    return [KernelResources(**each) for each in listed]


def resources_path(library: Path) -> Path:
    """Where the resources of a library's kernels are noted."""
    return library.with_name(f"{library.name}.resources")


def _program(mod: IRModule, function: tirx.PrimFunc, target: InstaTarget, out: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = {SYMBOL: serial(function)}  # without parts for threads
        kernels = raw.lower(one, target.tvm, "model", folder / "kernel.o")
        kernel = kernels.kernels[SYMBOL]
        scratch = (*kernel.shared, *kernel.own)
        (folder / "arguments.h").write_text(_arguments(mod, scratch), encoding="utf-8")
        find_linker(target).link_program(
            [_MAIN, kernels.object_file], out, "-O1", "-I", str(folder), "-lm", static=True
        )


def _arguments(mod: IRModule, scratch: Sequence[int]) -> str:
    """The header that icount_main.c includes."""
    own = [math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in arguments_of(mod)]
    written = [int(index in outputs_of(mod)) for index in range(len(own))]
    count = len(own) + len(scratch)
    return "\n".join(
        [
            "#include <stdint.h>",
            f"#define ARGUMENTS {count}",
            f"#define FROM_FILE {len(own)}",
            f"static const size_t argument_bytes[] = {{{', '.join(map(str, [*own, *scratch]))}}};",
            f"static const int argument_written[] = {{{', '.join(map(str, written))}}};",
            f"int32_t model_{SYMBOL}({', '.join(['void *'] * count)});",
            f"#define CALL(p) model_{SYMBOL}({', '.join(f'p[{i}]' for i in range(count))})",
            "",
        ]
    )
