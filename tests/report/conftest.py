"""A small network in both forms, with counters."""

from __future__ import annotations

import pytest
import torch

import tvm_insta
from tests.support.small import small_resnet


@pytest.fixture(scope="session")
def profiled(tmp_path_factory):
    """Folder with the artefacts "vm" and "c" of one network, compiled with counters."""
    folder = tmp_path_factory.mktemp("profiled")
    for form in ("vm", "c"):
        options = {"runtime": form, "profile": True, "check": False, "max_batch": 4}
        example = torch.zeros(1, 3, 32, 32)
        tvm_insta.build(small_resnet("insta"), example, out_dir=folder / form, **options)
    return folder
