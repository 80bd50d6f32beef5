"""Options that a target can serve, but that may not pay there."""

from __future__ import annotations

import logging

import pytest

from tvm_insta.compile import parser
from tvm_insta.compiler.option_checks import check_options
from tvm_insta.compiler.options import CompileOptions
from tvm_insta.schedules import able, back_end
from tvm_insta.target import parse

OPTIONS = ("stem", "storage", "binary", "amx_weights")


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


@pytest.mark.parametrize("option", OPTIONS)
def test_a_doubt_names_an_option_of_the_command_line(option, monkeypatch, caplog):
    target = parse("llvm")
    monkeypatch.setattr(type(back_end(target.tvm)), "doubt", lambda *_: "it was not measured")
    value = {"stem": "fp32", "storage": "fp32"}.get(option, "auto")
    with caplog.at_level(logging.WARNING):
        check_options(target, **{option: value})
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.split()[0] in parser().format_help().replace(",", " ").split()


def test_storage_says_where_it_can_be_had():
    """In Python and on the command line: every back end that can."""
    python = CompileOptions.__doc__.split("storage:")[1].split("calibrate:")[0]
    command = parser().format_help().split("--storage")[-1].split("--binary")[0]
    titles = {kind.title for kind, _ in able("storage", "fp16")}
    assert titles == {"aarch64", "x86-64", "CUDA"}
    for text in (python, command):
        assert all(title.removesuffix("-64") in text for title in titles), text
