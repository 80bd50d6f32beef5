"""``--require-binary``: what stays float is an error with its reasons, unless it is named."""

from __future__ import annotations

import pytest
import torch

import tvm_insta
from tests.support.small import small_resnet
from tvm_insta import compile as command
from tvm_insta.errors import InstaError
from tvm_insta.report.require import require_binary
from tvm_insta.runtime.manifest import Layer


def layer(name, op="conv2d", kind="float"):
    return Layer(name, op, kind, (1,), 1, reason=None if kind == "binary" else "it is real")


SHORTCUTS = ("stem", "stage2.0.shortcut")
LAYERS = [layer("stem.conv"), layer("a", kind="binary"), layer("fc", "dense"), layer("x", "matmul")]


@pytest.mark.parametrize("allowed", [("stem.conv", "fc"), ("stem", "fc")])
def test_named_layers_may_stay_float(allowed):
    require_binary(LAYERS, allowed)


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ((), r"2 layers that stay float.*stem\.conv \(conv2d\): it is real; fc .*stem\.conv,fc"),
        (("stem",), "1 layers that stay float.*fc"),
        (("stem", "fo"), r"'fo', but there is no such layer: the float layers are stem\.conv, fc"),
        (("ste", "fc"), "'ste', but there is no such layer"),
    ],
)
def test_others_are_an_error_with_the_reasons(allowed, message):
    with pytest.raises(InstaError, match=message):
        require_binary(LAYERS, allowed)


def test_the_compiler_asks_before_it_generates_code(tmp_path):
    options = {"require_binary": True, "out_dir": tmp_path / "out", "check": False}
    example = torch.zeros(1, 3, 32, 32)
    with pytest.raises(InstaError, match=r"fc \(dense\): its weights are real-valued"):
        tvm_insta.build(small_resnet("insta"), example, allow_float=SHORTCUTS, **options)
    assert not (tmp_path / "out").exists()
    made = tvm_insta.build(
        small_resnet("insta"), example, allow_float=(*SHORTCUTS, "fc"), **options
    )
    assert made.manifest.options["require_binary"] is True


def test_the_command_ends_with_2(tmp_path, capsys):
    arguments = ["--model", "resnet20", "--require-binary", "-o", str(tmp_path / "out")]
    assert command.main([*arguments, "--allow-float", "fc"]) == 2
    error = capsys.readouterr().err
    assert "stem.conv (conv2d): " in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_compile_explains_at_its_end(tmp_path, capsys):
    arguments = ["--model", "resnet20", "--no-check", "--explain", "-o", str(tmp_path / "out")]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "why layers stay float" in printed and "  fc (dense) [" in printed
