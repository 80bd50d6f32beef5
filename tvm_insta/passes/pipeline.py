"""The pipeline, as data: phases, each a list of passes, from an imported model to its kernels.

`--dump-ir` writes the module after each phase, `--verify-stages` checks and executes it there. The
compiler, the tuner and the tests run these phases, all of them or up to one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import tvm

from tvm_insta.errors import ArtefactError
from tvm_insta.frontend import Imported, Site
from tvm_insta.passes.context import Context
from tvm_insta.passes.fix_batch import fix_batch
from tvm_insta.passes.fold_scales import fold_scales
from tvm_insta.passes.lowering import FUSE, LOWER
from tvm_insta.passes.merge_parallel import merge_parallel
from tvm_insta.passes.module_pass import Pass, run_passes
from tvm_insta.passes.narrow_floats import narrow_floats
from tvm_insta.passes.recognise import recognise_layers, recognise_moments, recognise_thresholds
from tvm_insta.passes.report import Report
from tvm_insta.passes.schedule import schedule
from tvm_insta.passes.simplify import simplify
from tvm_insta.passes.storage import store_half
from tvm_insta.passes.to_nhwc import to_nhwc
from tvm_insta.passes.verify import verify
from tvm_insta.schedules import ScheduleRecord

AfterPhase = Callable[[int, str, tvm.IRModule], None]
"""Called with number, name and module after each phase, e.g. to verify or to show progress."""


@dataclass(frozen=True)
class Phase:
    """Passes behind which the module is dumped and checked.

    Attributes:
        name: for people, and of the dump's file.
        passes: in order.
    """

    name: str
    passes: tuple[Pass, ...]


PIPELINE: tuple[Phase, ...] = (
    # Plain Relax, as PyTorch had it.
    Phase("imported", ()),
    # Constants are computed, batch norm is one factor and one offset.
    Phase("simplify", (simplify,)),
    # Images are channels last.
    Phase("to_nhwc", (to_nhwc,)),
    # Level tensors and the layers behind them are relax.insta.* on packed bits.
    Phase("recognise", (recognise_moments, recognise_thresholds, recognise_layers)),
    # One factor and one offset behind each layer; parallel convolutions are one.
    Phase("fold_scales", (fold_scales, merge_parallel)),
    # Border tables, blocked weights, narrow numbers.
    Phase("lower", (narrow_floats, *LOWER, fix_batch)),
    # TIR kernels with all that is fused into them; images in float16 where that is asked for.
    Phase("fuse", (*FUSE, store_half)),
    # Every kernel is scheduled for the target.
    Phase("schedule", (schedule,)),
)

PHASES = tuple(phase.name for phase in PIPELINE)


@dataclass(frozen=True)
class Compiled:
    """What the pipeline yields.

    Attributes:
        mod: scheduled module, ready for code generation.
        report: what became of each layer, each pack and each kernel.
        sites: the level tensors that packs name.
    """

    mod: tvm.IRModule
    report: Report
    sites: Mapping[str, Site]

    @property
    def schedules(self) -> list[ScheduleRecord]:
        """One record per kernel."""
        return self.report.schedules


def run_pipeline(
    imported: Imported,
    context: Context,
    *,
    last: str = PHASES[-1],
    dump_ir: Path | None = None,
    after_phase: AfterPhase | None = None,
    verify_ir: bool = False,
) -> Compiled:
    """Run the phases in order.

    Args:
        imported: from `frontend.import_torch`.
        context: the options. Its report is left alone: each run has its own.
        last: the phase to stop behind; "fuse" gives the kernels as the tuner takes them.
        dump_ir: folder that receives one TVMScript file per phase, ``<number>_<name>.py``.
        after_phase: see `AfterPhase`.
        verify_ir: check the module after each phase, see `verify`. The environment variable
            TVM_INSTA_VERIFY_IR=1 asks for it everywhere, as the tests do.

    Raises:
        InstaError: from a pass, from `verify`, or when ``dump_ir`` cannot be written.
    """
    context = replace(context, report=Report.of(imported.layers))
    verify_ir = verify_ir or os.environ.get("TVM_INSTA_VERIFY_IR") == "1"
    mod = imported.mod
    for number, phase in enumerate(up_to(last)):
        mod = run_passes(mod, phase.passes, context)
        if dump_ir is not None:
            _dump(mod, dump_ir, f"{number}_{phase.name}.py")
        if verify_ir:
            verify(mod, phase.name)
        if after_phase is not None:
            after_phase(number, phase.name, mod)
    return Compiled(mod, context.report, imported.sites)


def up_to(last: str) -> tuple[Phase, ...]:
    """The phases up to one, inclusive."""
    return PIPELINE[: PHASES.index(last) + 1]


def run_phase(name: str, mod: tvm.IRModule, context: Context | None = None) -> tvm.IRModule:
    """Run one phase on a module that is what the phase before it yields."""
    return run_passes(mod, PIPELINE[PHASES.index(name)].passes, context or Context())


def fuse(
    mod: tvm.IRModule, report: Report | None = None, *, consumers: bool = False
) -> tvm.IRModule:
    """The kernels of a lowered module, for measurements and tests.

    Args:
        mod: after phase "lower".
        report: its packs learn which kernel packs them.
        consumers: not only element-wise epilogues, but also what `fuse_consumers` describes.
    """
    return run_phase("fuse", mod, Context(fuse_consumers=consumers, report=report or Report()))


def _dump(mod: tvm.IRModule, folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(mod.script(), encoding="utf-8")
    except OSError as error:
        raise ArtefactError(
            f"the IR dump {folder / name} cannot be written ({error.strerror}): choose another "
            "folder for --dump-ir"
        ) from error
