"""Artefacts that several tests share, compiled once."""

from __future__ import annotations

import os

os.environ.setdefault("TVM_NUM_THREADS", "2")

import pytest

from tvm_insta import compile as command


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The network that ships with the package, in both forms, compiled by the command line."""
    folder = tmp_path_factory.mktemp("digits")
    for form in ("vm", "c"):
        argv = ["--checkpoint", "digits", "--runtime", form, "--max-batch", "8"]
        assert command.main([*argv, "-o", str(folder / form)]) == 0
    return folder
