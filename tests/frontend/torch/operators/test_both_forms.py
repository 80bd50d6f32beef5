"""The table once more, through the whole compiler: layouts, fusion, schedules, both forms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

import tvm_insta
from tests.frontend.torch.operators.support import Function, arguments, inputs
from tests.frontend.torch.operators.test_operators import GROUPS, REFUSED, TOLERANCE

OVER_THE_BATCH = {
    "mean batch", "mean all", "sum all", "max all", "min all", "var all", "std all", "any all",
    "all all", "prod all", "amax all", "norm all", "argmax all", "expand new dims", "permute batch",
    "cat batch", "repeat rank", "conv2d input weights", "flatten batch", "batch_norm no statistics",
    "batch_norm no statistics plain", "batch_norm no statistics vector", "transpose batch", "t",
    "mm of transposed", "attention gqa", "batch_norm no statistics sequence", "index apart",
}  # fmt: skip
"""Cases in which images of a batch meet (the plain-C form runs one image after the other), or whose
first dimension is not the batch."""

CHUNK = 24


class Joined(nn.Module):
    """One output: the results of all functions of one input, flattened and side by side."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([_row(f(x), x) for f in self.functions.values()], 1)


def _row(result: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return result.reshape(x.shape[0], -1).float()


def _chunks() -> list[tuple[str, str, int]]:
    found = []
    for group in GROUPS:
        for name in "xvtsd":
            count = len(_cases(group, name))
            found += [(group, name, start) for start in range(0, count, CHUNK)]
    return found


def _cases(group: str, name: str) -> dict[str, Function]:
    return {
        case: function
        for case, function in GROUPS[group].items()
        if arguments(function) == [name] and case not in REFUSED and case not in OVER_THE_BATCH
    }


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name", "start"), _chunks())
def test_both_forms_are_pytorchs(group: str, name: str, start: int) -> None:
    cases = dict(list(_cases(group, name).items())[start : start + CHUNK])
    module = Joined(cases).eval()
    x = inputs(3, 1)[name]
    with torch.no_grad():
        reference = [_row(function(x), x).numpy() for function in cases.values()]
    for runtime in ("vm", "c"):
        ours = tvm_insta.build(module, x[:1], "llvm", runtime=runtime)(x.numpy())
        start_column = 0
        wrong = {}
        for case, theirs in zip(cases, reference, strict=True):
            part = ours[:, start_column : start_column + theirs.shape[1]]
            start_column += theirs.shape[1]
            finite = np.isfinite(theirs)
            top = float(np.abs(theirs[finite]).max(initial=1e-30))
            bound = TOLERANCE.get(case, 1e-5) * (np.abs(theirs) + min(top, 1.0))
            same = np.array_equal(part[~finite], theirs[~finite], equal_nan=True)
            if not same or not (np.abs(part - theirs) <= bound)[finite].all():
                wrong[case] = float(np.nanmax(np.abs(part - theirs)[finite], initial=0.0))
        assert not wrong, f"{runtime}: {wrong}"
