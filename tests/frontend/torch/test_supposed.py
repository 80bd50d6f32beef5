"""What is supposed of the batch, where torch.export cannot prove it: tried for every size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import tvm_insta
from tests.frontend.torch.graphs import Network, exported
from tvm_insta.errors import ImportModelError

STEPS, MOST = 4, 6
WEIGHT = torch.randn(5, 8, 3, 3, generator=torch.Generator().manual_seed(0)).sign()


def _as_steps(y, batch):
    return y.view(STEPS, batch, *y.shape[1:])


def repeated(x):
    """Time steps first, for each layer flattened into the batch and taken apart again."""
    y = x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)
    y = _as_steps(F.conv2d(torch.sign(y.flatten(0, 1)), WEIGHT), len(x))
    return _as_steps(F.max_pool2d(y.flatten(0, 1), 2).flatten(1), len(x)).mean(0)


def accumulated(x):
    """A membrane that is charged, fires and is reset, over steps of one convolution."""
    charge = _as_steps(F.conv2d(x.repeat(STEPS, 1, 1, 1), WEIGHT / 9), len(x))
    level, spikes = torch.zeros_like(charge[0]), []
    for each in charge:
        level = level + each
        spikes.append((level > 1).float())
        level = level * (1 - spikes[-1])
    fired = F.conv2d(torch.stack(spikes).flatten(0, 1), WEIGHT[:, :5])
    return _as_steps(fired, len(x)).sum(0)


@pytest.mark.parametrize("function", [repeated, accumulated])
def test_steps_in_front_of_the_batch(function):
    x = torch.randn(MOST, 8, 6, 6, generator=torch.Generator().manual_seed(1))
    artefact = tvm_insta.build(Network(function), x[:1], max_batch=MOST)
    for count in (1, 2, 5, MOST):
        own = torch.from_numpy(artefact(x[:count].numpy()))
        torch.testing.assert_close(own, function(x[:count]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(2, 8, 36),
        lambda x: x.view(-1, 2, 8, 36).sum(1),
        lambda x: x.reshape(STEPS // 2, -1, 8, 36).repeat(2, 1, 1, 1).flatten(0, 1)[: x.shape[0]],
    ],
    ids=["one size", "even sizes", "even sizes, steps"],
)
def test_what_holds_for_some_batches_is_refused(function):
    with pytest.raises(ImportModelError, match="fixes the size of the batch in forward"):
        exported(function, torch.zeros(2, 8, 6, 6))
