"""Shared by the tests of tvm_insta.nn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep PyTorch to one thread: the tests share the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """Give a seeded source of randomness; pytest prints what is captured when a test fails."""
    seed = sum(map(ord, request.node.name))
    print(f"seed {seed}")
    return torch.Generator().manual_seed(seed)
