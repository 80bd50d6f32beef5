from __future__ import annotations

import pytest
import torch

from tvm_insta import nn
from tvm_insta.nn.binarise import step_slope


@pytest.mark.parametrize("training", [True, False])
def test_a_value_on_its_threshold_is_plus_one(training: bool) -> None:
    x = torch.tensor([-1.0, -0.0, 0.0, 1e-38, float("nan")])
    bits = nn.binarise_activation(x, torch.zeros(1), training=training)
    assert bits.tolist() == [-1.0, 1.0, 1.0, 1.0, -1.0]
    assert nn.binarise_weight(x[:4], training=training).tolist() == [-1.0, 1.0, 1.0, 1.0]


def test_activation_gradient_is_piecewise_quadratic() -> None:
    points = [-1.5, -1.0, -0.75, -0.25, 0.0, 0.25, 0.75, 1.0, 1.5]
    # Written from the definition: 2 + 2u on [-1, 0), 2 - 2u on [0, 1), else 0.
    expected = [0.0, 0.0, 0.5, 1.5, 2.0, 1.5, 0.5, 0.0, 0.0]
    x = torch.tensor(points, requires_grad=True)
    nn.binarise_activation(x, torch.zeros(1), training=True).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == expected


def test_gradient_of_the_threshold_is_minus_that_of_x_summed(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 4, 5, generator=generator, requires_grad=True)
    threshold = torch.randn(1, 3, 1, 1, generator=generator, requires_grad=True)
    weights = torch.randn(2, 3, 4, 5, generator=generator)
    (nn.binarise_activation(x, threshold, training=True) * weights).sum().backward()
    assert x.grad is not None and threshold.grad is not None
    torch.testing.assert_close(x.grad, weights * step_slope((x - threshold).detach()))
    # 40 addends in another order: a few units in the last place.
    torch.testing.assert_close(threshold.grad, -x.grad.sum(dim=(0, 2, 3), keepdim=True))


def test_weight_gradient_passes_up_to_one() -> None:
    weight = torch.tensor([-1.5, -1.0, -0.5, 0.0, 1.0, 1.001], requires_grad=True)
    incoming = torch.arange(1.0, 7.0)
    (nn.binarise_weight(weight, training=True) * incoming).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 0.0]


def test_training_and_evaluation_agree(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 5, 5, generator=generator)
    threshold = x[:, :, :1, :1].clone()  # one value of each image lies exactly on it
    trained = nn.binarise_activation(x, threshold, training=True)
    assert torch.equal(trained, nn.binarise_activation(x, threshold, training=False))
    assert bool((trained[:, :, 0, 0] == 1).all())
