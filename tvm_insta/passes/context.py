"""What the passes of one compilation are told, and where they report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import tvm

from tvm_insta.passes.report import Report
from tvm_insta.passes.rewriter import Array
from tvm_insta.schedules import BackEnd, BinaryLayer, Measured, Tiles, back_end
from tvm_insta.target import InstaTarget, parse

ChooseTiles = Callable[[tvm.IRModule], Mapping[str, Tiles]]
"""Parameters of the schedules by kernel, for a fused module; see `schedule_module`."""


@dataclass(frozen=True)
class Context:
    """The options of one run of the pipeline. Passes write to `report` and to nothing else.

    Attributes:
        target: what to compile for; this machine if it is left out.
        batch: fixes a symbolic batch to this size before the kernels are made (plain-C form).
        float_dtype: numbers in which the float layers compute: "fp32", "bf16" or "int8".
        storage: how images lie in memory between kernels, "fp32" or "fp16", see `storage`.
        samples: for "int8", one array per input, ``[images, ...]``: they show how large the
            activations become.
        binary: how binary convolutions compute: "auto", "popcount" or "amx", see
            `schedules.BackEnd.uses_tiles`.
        amx_weights: what AMX tiles take as weights: "auto" (by size), "bits" or "bytes".
        measured: figures of binary convolutions in both variants, for "auto" on targets with AMX;
            layers without figures go by the back end's cost model.
        choose_tiles: parameters of the schedules; None leaves them all to the schedules.
        fuse_consumers: whether kernels take more than element-wise epilogues, see
            `fuse_consumers`.
        report: what became of each layer, in which kernel bits are packed, how kernels were
            scheduled.
    """

    target: InstaTarget = field(default_factory=lambda: parse("llvm"))
    batch: int | None = None
    float_dtype: str = "fp32"
    storage: str = "fp32"
    samples: Sequence[Array] = ()
    binary: str = "auto"
    amx_weights: str = "auto"
    measured: Mapping[BinaryLayer, Measured] = field(default_factory=dict)
    choose_tiles: ChooseTiles | None = None
    fuse_consumers: bool = True
    report: Report = field(default_factory=Report)

    @functools.cached_property
    def back_end(self) -> BackEnd:
        """The back end of the target."""
        return back_end(self.target.tvm)
