"""Kernels that fall back: a warning each, or an error; and our networks have none."""

from __future__ import annotations

import logging

import pytest
import torch

from tvm_insta import nn
from tvm_insta.compiler.schedule_check import check_schedules
from tvm_insta.errors import InstaError
from tvm_insta.frontend import import_torch
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.schedules import ScheduleRecord
from tvm_insta.target import parse
from tvm_insta.target.parse import PRESETS

RECORDS = [
    ScheduleRecord("conv", "insta_bconv"),
    ScheduleRecord("pack", "reduction", None, "a block in front of the packing"),
]


def test_a_fallback_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        check_schedules(RECORDS, strict=False)
    (line,) = caplog.messages
    assert line == "slower schedule: pack runs as 'reduction' (a block in front of the packing)"


def test_or_an_error():
    with pytest.raises(InstaError, match=r"does not apply to 1 of 2 kernels: pack runs as"):
        check_schedules(RECORDS, strict=True)
    check_schedules(RECORDS[:1], strict=True)


class Grouped(torch.nn.Module):
    """Two groups of whole words behind a float layer."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 64, 3, padding=1)
        self.weight = torch.nn.Parameter(torch.randn(64, 32, 3, 3).sign())

    def forward(self, x):
        bits = torch.where(self.stem(x) >= 0, 1.0, -1.0)
        return torch.nn.functional.conv2d(bits, self.weight, padding=1, groups=2)


TARGETS = {target.canonical: target for target in map(parse, PRESETS) if target.kind == "llvm"}
NETWORKS = {
    "resnet20": (lambda: nn.create("resnet20", "insta_plus"), 32),
    "resnet18": (lambda: nn.create("resnet18", "insta"), 64),
    "mobilenet_v1": (lambda: nn.create("mobilenet_v1", "insta"), 64),
    "groups": (Grouped, 16),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_no_kernel_of_ours_falls_back_on_any_preset(name):
    make, size = NETWORKS[name]
    imported = import_torch(
        make().eval(), [torch.zeros(1, 3, size, size)], max_batch=4, dynamic=True
    )
    for target in TARGETS.values():
        check_schedules(run_pipeline(imported, Context(target)).schedules, strict=True)
