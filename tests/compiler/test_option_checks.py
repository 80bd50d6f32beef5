"""Options that a target can serve, but that may not pay there."""

from __future__ import annotations

import logging

import pytest

from tvm_insta.compiler.option_checks import check_options
from tvm_insta.target import parse


@pytest.mark.parametrize(
    ("target", "stem", "doubted"),
    [
        ("llvm -mcpu=sapphirerapids", "bf16", False),  # AMX tiles of bfloat16
        ("llvm -mcpu=sapphirerapids -mattr=-amx-bf16", "bf16", True),
        ("llvm -mcpu=sapphirerapids -mattr=-amx-tile", "bf16", True),
        ("llvm -mcpu=cooperlake", "bf16", True),
        ("llvm -mcpu=znver4", "bf16", False),
        ("llvm -mcpu=sapphirerapids", "int8", False),
        ("llvm -mcpu=sapphirerapids", "fp32", False),
        ("cortex-a76", "int8", False),
    ],
)
def test_a_stem_that_may_not_pay_is_said_so(target, stem, doubted, caplog):
    with caplog.at_level(logging.WARNING):
        check_options(parse(target), stem=stem)
    said = [record.getMessage() for record in caplog.records]
    assert bool(said) == doubted
    if doubted:
        assert said[0].startswith("--stem bf16 may be slower than fp32") and "vdpbf16ps" in said[0]
