"""Which kernel computes which layer: the constant that a kernel is called with tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import tvm
from tvm.ir import GenericConst

from tvm_insta.passes.lower import weight_key
from tvm_insta.passes.report import Layer, Report


def kernels_of_layers(mod: tvm.IRModule, report: Report) -> Iterator[tuple[Layer, tuple[str, ...]]]:
    """Every layer with the names of the kernels that compute it: several for several planes.

    Args:
        mod: fused, with or without schedules.
        report: of the same run of the passes.
    """
    kernels = _kernel_of_weight(mod)
    seen: Counter[str] = Counter()
    for layer in report.layers:
        symbols = []
        for key in layer.weight_keys:
            found = kernels.get(key, [])
            if found:
                symbols.append(found[min(seen[key], len(found) - 1)])
            seen[key] += 1
        yield layer, tuple(symbols)


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
