"""The one way from an imported model to scheduled kernels, in numbered phases.

0 imported     plain Relax, as PyTorch had it
1 simplify     constants computed, batch norm = one factor and one offset
2 to_nhwc      channels last
3 recognise    comparisons and constant signs -> relax.insta.* on packed bits
4 fold_scales  one factor and one offset behind each layer; parallel convolutions are one
5 lower        border tables, blocked weights
6 fuse         TIR kernels, each with its epilogue and the consumers fused into it; images between
               them in float16 where that is asked for
7 schedule     every kernel scheduled for the target
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tvm
from tvm import relax

from tvm_insta.errors import ArtefactError
from tvm_insta.frontend import Imported, Site
from tvm_insta.ops._common import OPAQUE
from tvm_insta.ops.packing import ZERO_CODE
from tvm_insta.passes.calibrate import calibrate
from tvm_insta.passes.fold_scales import fold_scales
from tvm_insta.passes.fuse_consumers import fuse_consumers
from tvm_insta.passes.labels import labelled, legalise, without_labels
from tvm_insta.passes.lower import Narrow, lower
from tvm_insta.passes.merge_parallel import merge_parallel
from tvm_insta.passes.recognise import recognise
from tvm_insta.passes.report import Report
from tvm_insta.passes.rewriter import Array
from tvm_insta.passes.shortcuts import pool_shortcuts
from tvm_insta.passes.simplify import simplify
from tvm_insta.passes.storage import store_half
from tvm_insta.passes.to_nhwc import to_nhwc
from tvm_insta.schedules import (
    BinaryLayer,
    ConvTiles,
    Measured,
    ScheduleRecord,
    UsesTiles,
    back_end,
    schedule_module,
)
from tvm_insta.target import InstaTarget, parse

AfterPhase = Callable[[int, str, tvm.IRModule], None]
"""Called with number, name and module after each phase, e.g. to verify or to show progress."""

Fused = Callable[[UsesTiles | None], tuple[tvm.IRModule, Report]]
"""The network's kernels, not scheduled, with binary convolutions in certain forms; its report."""

Compare = Callable[[Fused], Mapping[BinaryLayer, Measured]]
"""Figures of binary convolutions in both their forms, for a network; see `schedules.UsesTiles`."""

Choose = Callable[[tvm.IRModule], Mapping[str, ConvTiles]]
"""Parameters of the schedules by kernel, for a fused module; see `schedule_module`."""

PHASES = (
    "imported",
    "simplify",
    "to_nhwc",
    "recognise",
    "fold_scales",
    "lower",
    "fuse",
    "schedule",
)


@dataclass(frozen=True)
class Compiled:
    """What the pipeline yields.

    Attributes:
        mod: scheduled module, ready for code generation.
        report: one entry per layer.
        schedules: one record per kernel.
        sites: the level tensors that packs name.
    """

    mod: tvm.IRModule
    report: Report
    schedules: list[ScheduleRecord]
    sites: Mapping[str, Site]


def run_pipeline(
    imported: Imported,
    target: InstaTarget,
    *,
    batch: int | None = None,
    dump_ir: Path | None = None,
    after_phase: AfterPhase | None = None,
    choose: Choose | None = None,
    last: str = PHASES[-1],
    stem: str = "fp32",
    storage: str = "fp32",
    samples: Sequence[Array] = (),
    binary: str = "auto",
    compare: Compare | None = None,
) -> Compiled:
    """Run every phase.

    Args:
        imported: from `frontend.import_torch`.
        target: what to schedule for.
        batch: fixes a symbolic batch to this size before the kernels are made (plain-C form).
        dump_ir: folder that receives one TVMScript file per phase, ``<number>_<name>.py``.
        after_phase: see `AfterPhase`.
        choose: parameters of the schedules; None leaves them all to the schedules.
        last: the phase to stop behind; "fuse" gives the kernels as the tuner takes them.
        stem: numbers in which the float layers compute: "fp32", "bf16" or "int8".
        storage: how images lie in memory between kernels, "fp32" or "fp16", see `storage`.
        samples: for "int8", one array per input, ``[images, ...]``: they show how large the
            activations become.
        binary: how binary convolutions compute: "auto", "popcount" or "amx", see
            `schedules.BackEnd.uses_tiles`.
        compare: what was measured, for "auto" on targets with AMX; None for the rule.

    Raises:
        InstaError: from a phase, or when ``dump_ir`` cannot be written.
    """
    report = Report.of(imported.layers)
    records: list[ScheduleRecord] = []
    chosen = back_end(target.tvm)

    def schedule(mod: tvm.IRModule) -> tvm.IRModule:
        parameters = None if choose is None else choose(mod)
        mod, made = schedule_module(mod, target.tvm, lanes=target.lanes, parameters=parameters)
        records.extend(made)
        return mod

    def narrowed(mod: tvm.IRModule) -> Narrow | None:
        if stem != "int8":
            return None if stem == "fp32" else Narrow(stem)
        host = parse("llvm")

        def prepare(probed: tvm.IRModule) -> tvm.IRModule:
            probed = fuse(lower_for(probed, Report(), host, binary="popcount"))
            return schedule_module(probed, host.tvm, lanes=host.lanes)[0]

        zero = 0 if target.arch == "aarch64" else ZERO_CODE
        return Narrow(stem, calibrate(mod, samples, prepare, host.tvm), zero)

    def stored(mod: tvm.IRModule) -> tvm.IRModule:
        return store_half(mod) if storage == "fp16" else mod

    def lowered(mod: tvm.IRModule) -> tvm.IRModule:
        numbers = narrowed(mod)

        def fused(tiles: UsesTiles | None) -> tuple[tvm.IRModule, Report]:
            own = copy.deepcopy(report)
            made = fuse(lower_for(mod, own, target, numbers, tiles=tiles), own, consumers=True)
            return stored(made), own

        tiles = chosen.uses_tiles(binary)
        if tiles is not None and binary == "auto" and compare is not None:
            tiles = chosen.uses_tiles(binary, compare(fused))
        return _fix_batch(lower_for(mod, report, target, numbers, tiles=tiles), batch)

    steps: dict[str, Callable[[tvm.IRModule], tvm.IRModule]] = {
        "imported": lambda mod: mod,
        "simplify": simplify,
        "to_nhwc": to_nhwc,
        "recognise": lambda mod: recognise(mod, report),
        "fold_scales": lambda mod: merge_parallel(fold_scales(mod), report),
        "lower": lowered,
        "fuse": lambda mod: stored(fuse(mod, report, consumers=True, tiles=chosen.fuses_consumers)),
        "schedule": schedule,
    }
    mod = imported.mod
    for number, name in enumerate(PHASES[: PHASES.index(last) + 1]):
        mod = steps[name](mod)
        if dump_ir is not None:
            _dump(mod, dump_ir, f"{number}_{name}.py")
        if after_phase is not None:
            after_phase(number, name, mod)
    return Compiled(mod, report, records, imported.sites)


def lower_for(
    mod: tvm.IRModule,
    report: Report,
    target: InstaTarget,
    narrow: Narrow | None = None,
    *,
    binary: str = "auto",
    tiles: UsesTiles | None = None,
) -> tvm.IRModule:
    """`lower` with the layouts that are fast on a target; without `tiles`, those of `binary`."""
    chosen = back_end(target.tvm)
    return lower(
        pool_shortcuts(mod),
        report,
        target.lanes,
        chosen.binary_blocking,
        narrow,
        tiles or chosen.uses_tiles(binary),
        chosen.float_block,
    )


def fuse(
    mod: tvm.IRModule,
    report: Report | None = None,
    *,
    consumers: bool = False,
    tiles: bool = True,
) -> tvm.IRModule:
    """Legalise to TIR and put what belongs to a kernel behind it.

    Args:
        mod: after `lower`.
        report: its packs learn which kernel packs them.
        consumers: not only element-wise epilogues, but also what `fuse_consumers` describes.
        tiles: whether that is more than the small kernels of thresholds, see `fuse_consumers`.
    """
    transform = relax.transform
    legal = _keep_concatenations(transform.AnnotateTIROpPattern()(legalise(mod)))
    mod = labelled(transform.FuseOps()(without_labels(legal)), transform.FuseOps()(legal))
    mod, sites = fuse_consumers(mod, consumers=consumers, tiles=tiles)
    if report is not None:
        report.packs = [
            replace(pack, **asdict(site)) for pack, site in zip(report.packs, sites, strict=True)
        ]
    return tvm.transform.Sequential([transform.FuseTIR(), transform.DeadCodeElimination()])(mod)


def _keep_concatenations(mod: tvm.IRModule) -> tvm.IRModule:
    """Concatenations stay kernels of their own: a plain copy of vectors.

    Fused into an epilogue that reads its input several times, a concatenation is evaluated that
    often, with a condition for every element: over ten times slower at 112x112x64 than the copy.
    """
    result = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
    for variable, function in mod.functions.items():
        if variable.name_hint.startswith("concatenate"):
            result.update_func(variable, function.with_attr("op_pattern", OPAQUE))
    return result


def _fix_batch(mod: tvm.IRModule, batch: int | None) -> tvm.IRModule:
    function = mod["main"]
    symbols = {
        dim
        for param in function.params
        for dim in param.ty.shape.values
        if not hasattr(dim, "value")
    }
    if batch is None or not symbols:
        return mod
    fixed = function.bind_symbolic_vars({symbol: batch for symbol in symbols})
    return tvm.IRModule({"main": fixed.without_attr("tir_var_upper_bound")}, attrs=mod.attrs)


def _dump(mod: tvm.IRModule, folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(mod.script(), encoding="utf-8")
    except OSError as error:
        raise ArtefactError(
            f"the IR dump {folder / name} cannot be written ({error.strerror}): choose another "
            "folder for --dump-ir"
        ) from error
