"""Which kernel computes which layer: the constant that a kernel is called with tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import tvm
from tvm.ir import GenericConst

from tvm_insta.passes.lower import weight_key
from tvm_insta.passes.report import Layer, Report


def kernels_of_layers(
    mod: tvm.IRModule, report: Report
) -> Iterator[tuple[list[Layer], str | None]]:
    """The layers that one call computes, mostly one, with the name of its kernel or None.

    Args:
        mod: fused, with or without schedules.
        report: of the same run of the passes.
    """
    kernels = _kernel_of_weight(mod)
    seen: Counter[str] = Counter()
    for group in report.groups():
        key = group[0].weight_key
        symbols = kernels.get(key, [])
        yield group, symbols[min(seen[key], len(symbols) - 1)] if symbols else None
        seen[key] += 1


def _kernel_of_weight(mod: tvm.IRModule) -> dict[str, list[str]]:
    """Symbols of the kernels that are called with each constant, in the order of the calls."""
    found: dict[str, list[str]] = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not isinstance(call, tvm.ir.Call) or len(call.args) < 2:
                continue
            fields = getattr(call.args[1], "fields", ())
            for value in fields:
                if isinstance(value, GenericConst):
                    key = weight_key(value.value.numpy())
                    found.setdefault(key, []).append(str(call.args[0].name_hint))
    return found
