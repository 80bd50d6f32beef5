"""A workload with chosen parameters as machine code: a library, an object file, or assembly."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tvm
from tvm import tirx
from tvm.ir import IRModule

from tvm_insta.codegen import raw
from tvm_insta.codegen.relax_vm import TIR_PIPELINE
from tvm_insta.errors import TuneError
from tvm_insta.schedules import ConvTiles, schedule_module
from tvm_insta.target import InstaTarget
from tvm_insta.toolchain import find_linker

SYMBOL = "kernel"
FORMS = ("library", "object", "assembly")


def scheduled(mod: IRModule, target: InstaTarget, tiles: ConvTiles | None) -> tirx.PrimFunc:
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
    tiles: ConvTiles | None,
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
        form: "library" (shared, TVM's calling convention, function "kernel"), "object" (raw
            pointers, C function "model_kernel", as the plain-C form has it) or "assembly".
        out: the file.
        threads: 1 compiles parallel loops as serial ones, as the plain-C form has them.

    Raises:
        TuneError: the rule does not take the parameters.
        CodegenError, ToolchainError: as the compiler.
    """
    function = scheduled(mod, target, tiles)
    if form == "object":
        kernels = raw.lower({SYMBOL: function}, target.tvm, "model", out)
        if kernels.scratch[SYMBOL]:
            raise TuneError("the kernel needs scratch memory, which this runner does not provide")
        return
    if threads == 1:
        function = raw.serial(function)
    module = IRModule({SYMBOL: function.with_attr("global_symbol", SYMBOL)})
    executable = tvm.compile(module, target=target.tvm, tir_pipeline=TIR_PIPELINE)
    if form == "assembly":
        out.write_text(executable.mod.inspect_source("asm"), encoding="utf-8")
        return
    linker = find_linker(target)

    def link(library: str, objects: Iterable[str], **_: object) -> None:
        linker.link_shared([Path(item) for item in objects], Path(library), "-lm")

    executable.export_library(str(out), fcompile=link)
