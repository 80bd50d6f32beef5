"""Every operator and attribute of the table against PyTorch: values, types, NaN and infinities."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.frontend.torch.operators import (
    cases_activations,
    cases_elementwise,
    cases_layers,
    cases_reductions,
    cases_shapes,
)
from tests.frontend.torch.operators.support import Function, disagreements
from tvm_insta.errors import ImportModelError

GROUPS: dict[str, Mapping[str, Function]] = {
    name.lower(): cases
    for module in (
        cases_elementwise, cases_activations, cases_reductions, cases_shapes, cases_layers
    )
    for name, cases in vars(module).items()
    if name.isupper() and isinstance(cases, dict) and name != "REFUSED"
}  # fmt: skip

FINITE = {
    "products", "convolutions", "resampling", "normalisations", "sampling",
    # single cases: undefined in PyTorch, or a product of 0 and infinity in one of two orders
    "to uint8", "to int8", "x to int16", "x to int32", "x to int64",
    "sign of negative zero", "var_mean", "std_mean",
    "gelu", "gelu large",  # PyTorch 2.13 itself gives NaN for +inf
    "max_unpool2d", "max_pool2d unbatched",
    "fold attributes", "fold uneven", "fold",  # a transposed convolution: infinity times 0
    "topk index",  # equal infinities: PyTorch does not say which comes first
}  # fmt: skip
"""Groups and cases that are not run on NaN and infinities."""

TOLERANCE = {
    "var large mean": 1e-3,  # 1000 + x has 2**-14 as its last place
    "layer_norm large mean": 1e-3,
    "tanh small": 1e-3,  # TVM's tanh is off by 1.5e-8 near 0
}

REFUSED = {
    "erfc": "erfc", "pow int tensor": "pow of integers", "pow of two int": "pow of integers",
    "ldexp": "ldexp", "cummax": "cummax", "cummin": "cummin", "logcumsumexp": "logcumsumexp",
    "median": "median",
    "kthvalue": "kthvalue", "mode": "mode", "searchsorted": "searchsorted",
    "bilinear": "trilinear", "scatter": "scatter", "scatter_add": "scatter_add",
    "counted under a mask": "index with a mask", "shift too far": "by 16 places",
    "index_add": "index_put", "index_fill": "index_put", "index_copy": "index_put",
    "grid_sample bicubic": "grid_sampler_2d",
    "grid_sample reflection": "grid_sampler_2d",
    "max_pool2d unbatched": "rank 3", "max_pool2d indices": "indices are read",
    "max_unpool2d": "indices are read",
}  # fmt: skip
"""Cases that are refused, with what the sentence must name."""

STATIC = ("shapes", "reductions", "pools", "padding")
"""Groups that are run with a fixed batch too."""

ONE_SIZE = {"take_along_dim"}
"""Cases that torch.export itself specialises to the example's batch where two inputs share it."""

CHUNK = 40
"""Cases in one module: one compilation for all of them."""


def _chunks() -> list[tuple[str, int, bool]]:
    return [
        (group, start, dynamic)
        for group, cases in GROUPS.items()
        for start in range(0, len(cases), CHUNK)
        for dynamic in ((True, False) if group in STATIC else (True,))
    ]


@pytest.mark.parametrize(("group", "start", "dynamic"), _chunks())
def test_operators_are_pytorchs(group: str, start: int, dynamic: bool) -> None:
    cases = {
        name: function
        for name, function in list(GROUPS[group].items())[start : start + CHUNK]
        if name not in REFUSED and not (dynamic and name in ONE_SIZE)
    }
    finite = [name for name in cases if name in FINITE or group in FINITE]
    found = disagreements(cases, dynamic=dynamic, finite=finite, tolerance=TOLERANCE)
    assert not found, "\n".join(f"{name}: {words}" for name, words in found.items())


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_operator_and_line(name: str) -> None:
    function = next(cases[name] for cases in GROUPS.values() if name in cases)
    with pytest.raises(ImportModelError) as caught:
        disagreements({name: function})
    text = str(caught.value)
    assert REFUSED[name] in text
    assert "which cannot be compiled: " in text
    assert "support.py, line " in text  # where the case is called: its own lambda has no frame
    assert "\n" not in text
