"""Options as people give them in Python."""

from __future__ import annotations

import gc
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import tvm_insta
from tvm_insta.codegen.driver import check_name
from tvm_insta.compiler.options import CompileOptions
from tvm_insta.errors import InstaError
from tvm_insta.runtime import manifest_checks


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


class Unexported(nn.Linear):
    """Fails the test if the compiler gets as far as its forward."""

    def forward(self, x):
        raise AssertionError("compiled before the options were checked")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "a" * 129}, r"'aaaaaaaaaaaaaaaa'\.\.\. \(129 long\).* at most 128 in all"),
        ({"name": "a" * 129, "runtime": "c"}, "at most 128 in all"),
        ({"name": "my-net"}, "'my-net' cannot prefix C functions"),
        ({"max_batch": 2**31}, "got max_batch 2147483648, .* at most 2147483647"),
        ({"max_batch": 0}, "at least 1"),
    ],
)
def test_what_no_manifest_may_have_is_refused_first(given, said):
    """And in the words of the rule that the loader has."""
    with pytest.raises(InstaError, match=said):
        tvm_insta.build(Unexported(4, 2), torch.zeros(1, 4), **given)


@pytest.mark.parametrize("name", ["a" * 128, "a", "", "é", "1a", "a b", "a" * 129, "A_1", "a\n"])
def test_compiler_and_loader_allow_the_same_names(name):
    if manifest_checks.is_name(name):
        check_name(name)
    else:
        with pytest.raises(InstaError, match="cannot prefix"):
            check_name(name)
    assert manifest_checks.is_name(name) == (name in ("a" * 128, "a", "A_1"))


def test_a_temporary_artefact_goes_with_its_object(tmp_path, monkeypatch):
    """Without a warning; and a compilation that fails leaves nothing."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        artefact = tvm_insta.build(nn.Linear(4, 2), torch.zeros(1, 4))
        folder = artefact.path
        assert folder.parent == tmp_path and (folder / "model.json").exists()
        del artefact
        gc.collect()
        assert not folder.exists()
        with pytest.raises(InstaError, match="compiled before"):
            tvm_insta.build(Unexported(4, 2), torch.zeros(1, 4), check=False)
        gc.collect()
    assert not list(tmp_path.glob("tvm_insta-*"))
