"""Artefacts that several files of tests run."""

from __future__ import annotations

import pytest
import torch

from tests.cuda_emulator import nets
from tests.cuda_emulator.harness import require_nvcc


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The artefact folders of `nets.Small` by max_batch: the CPU's and CUDA's."""
    require_nvcc()
    torch.manual_seed(nets.SEED)
    network = nets.Small().eval()
    folders = {n: tmp_path_factory.mktemp(f"small{n}") for n in (1, 4)}
    for max_batch, folder in folders.items():
        nets.build(network, 9, max_batch, folder)
    return folders
