"""The inputs that `compile` checks an artefact with are those that docs/validation.md lists."""

from __future__ import annotations

import torch

from tvm_insta.compiler.self_check import inputs_for

EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))


def test_example_random_numbers_ties_and_zeros():
    (found,) = inputs_for([EXAMPLE])
    own, normal, ties, zeros = found
    assert torch.equal(own, EXAMPLE[0]) and not zeros.any()
    assert abs(float(normal.std()) - 1) < 0.1 and not torch.equal(normal, own)
    assert torch.equal(2 * ties, (2 * ties).round())
    # Of normal numbers 26.1 % round to 0 once multiplied by 1.5; 3072 numbers, so 0.8 % either way.
    assert abs(float((ties == 0).float().mean()) - 0.261) < 0.03


def test_three_images_of_the_calibration_in_their_place():
    samples = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 32, 32)
    (found,) = inputs_for([EXAMPLE], [samples])
    assert torch.equal(found, samples[:3])


def test_zeros_once():
    (found,) = inputs_for([torch.zeros(1, 3, 4, 4)])
    assert len(found) == 3
