"""Random networks of binary layers in every spelling, in both forms, against PyTorch.

Networks of exact numbers must give PyTorch's bits; others agree within rounding, or differ where
PyTorch itself gives another answer for an input that was moved by some roundings.

Ten networks are built side by side as one: a hundred take some 100 s of one core. A build in the vm
form takes twice as long as one in the plain-C form, since torch.export carries the symbolic batch
along: two of five are. Each build has one kind of numbers. More of them:
``INSTA_RANDOM_NETWORKS=5000``, others: ``INSTA_RANDOM_SEED=1000``.
"""

from __future__ import annotations

import os

import pytest
import torch

import tvm_insta
from tests.end_to_end.random_networks import RandomNetwork, SideBySide, compare, images
from tvm_insta.errors import InstaError

COUNT = int(os.environ.get("INSTA_RANDOM_NETWORKS", "300"))
FIRST = int(os.environ.get("INSTA_RANDOM_SEED", "0"))
TOGETHER = 10
BATCH = 3
EXCUSED = 0.02
"""Share of the networks of real numbers in which an image may flip: one in a million numbers lies
within rounding of its threshold, and a network compares some thousand."""


def form(group: int) -> str:
    """Three of five builds are in the plain-C form."""
    return "vm" if group % 5 in (1, 3) else "c"


@pytest.mark.slow
@pytest.mark.parametrize("group", range(-(-COUNT // TOGETHER)))
def test_random_networks(group):
    exact = group % 3 != 2
    first = FIRST + group * TOGETHER
    seeds = range(first, first + TOGETHER)
    networks = [RandomNetwork(seed, exact).eval() for seed in seeds]
    x = images(BATCH, first, exact)
    excused, wrong = 0, []
    for network, found in zip(networks, outputs(networks, x, form(group)), strict=True):
        difference = compare(network, x, found.numpy())
        if difference is not None and difference.excused:
            excused += 1
        elif difference is not None:
            wrong.append(f"{network.label}: {difference} in {network.steps}")
    assert not wrong, f"{form(group)} form, images of seed {first}:\n" + "\n".join(wrong)
    assert excused <= max(1, EXCUSED * TOGETHER), f"{excused} of {TOGETHER} networks flip"


def outputs(networks, x, runtime):
    """What each network gives, compiled side by side; a failure names the one that fails."""
    try:
        result = run(SideBySide(networks), x, runtime)
    except InstaError:
        for network in networks:
            try:
                run(network, x, runtime)
            except InstaError as error:
                pytest.fail(f"{network.label} ({network.steps}): {error}")
        raise
    with torch.no_grad():
        widths = [network(x).shape[1] for network in networks]
    return torch.split(torch.from_numpy(result), widths, 1)


def run(network, x, runtime):
    return tvm_insta.build(network.eval(), [x[:1]], runtime=runtime, max_batch=BATCH)(x.numpy())
