"""Whose lines are named: the user's, and those of libraries that define networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tvm_insta
from tvm_insta.frontend.torch.origin import is_foreign, user_frame

TORCH = Path(torch.__file__).parent
PACKAGE = Path(tvm_insta.__file__).parent


@pytest.mark.parametrize(
    "file",
    [
        TORCH.with_name("torchvision") / "models" / "resnet.py",
        TORCH.with_name("timm") / "layers" / "norm.py",
        Path.home() / "torch" / "net.py",
        Path.home() / "tvm_insta" / "net.py",
    ],
)
def test_of_the_user(file):
    assert not is_foreign(str(file))


@pytest.mark.parametrize(
    "file",
    [TORCH / "nn" / "functional.py", PACKAGE / "compiler" / "driver.py", "<eval_with_key>.3"],
)
def test_foreign(file):
    assert is_foreign(str(file)) and is_foreign(str(file), but_networks=True)


def test_networks_of_this_package():
    file = str(PACKAGE / "nn" / "blocks.py")
    assert is_foreign(file) and not is_foreign(file, but_networks=True)


def test_the_innermost_line():
    stack = "\n".join(
        f'  File "{file}", line {line}, in forward\n    return x'
        for file, line in [
            ("/home/me/train.py", 3),
            (TORCH.with_name("timm") / "resnet.py", 12),
            (TORCH / "nn" / "modules" / "module.py", 1000),
        ]
    )
    assert user_frame(stack) == (str(TORCH.with_name("timm") / "resnet.py"), 12)
    assert user_frame("nothing of the kind") is None
