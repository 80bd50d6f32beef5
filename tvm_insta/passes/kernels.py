"""Which kernel computes which layer: the labels of the kernel calls tell."""

from __future__ import annotations

from collections.abc import Iterator

import tvm

from tvm_insta.passes.labels import Label
from tvm_insta.passes.report import Layer, Report
from tvm_insta.passes.rewriter import op_name


def kernels_of_layers(mod: tvm.IRModule, report: Report) -> Iterator[tuple[Layer, tuple[str, ...]]]:
    """Every layer with the names of the kernels that compute it: several for several planes.

    Args:
        mod: fused, with or without schedules.
        report: of the same run of the passes.
    """
    found: dict[str, list[str]] = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if op_name(binding.value) == "relax.call_tir":
                for name in Label.of(binding.value).layers:
                    found.setdefault(name, []).append(str(binding.value.args[0].name_hint))
    for layer in report.layers:
        yield layer, tuple(found.get(layer.name, ()))
