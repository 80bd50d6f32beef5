"""Options as people give them in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import tvm_insta
from tvm_insta.compiler.options import CompileOptions
from tvm_insta.errors import InstaError


def test_folders_and_names_may_be_text(tmp_path):
    options = CompileOptions(
        dump_ir=str(tmp_path), log_dir="logs", require_binary=True, allow_float="stem, head.1"
    )
    assert (options.dump_ir, options.log_dir) == (tmp_path, Path("logs"))
    assert options.allow_float == ("stem", "head.1")


def test_they_reach_the_compiler(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x = torch.zeros(1, 4)
    given = {"dump_ir": str(tmp_path / "ir"), "require_binary": True}
    tvm_insta.build(network, x, allow_float="1", **given)
    assert (tmp_path / "ir" / "0_imported.py").exists()
    with pytest.raises(InstaError, match="other"):
        tvm_insta.build(network, x, allow_float="1,other", **given)
