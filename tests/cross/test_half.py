"""`--storage fp16` on Arm: conversions that every aarch64 has, and this machine's logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tvm_insta
from tests.cross.machines import A53, NATIVE
from tests.passes.networks import tiny_resnet
from tvm_insta.target import parse

LOGITS = 2e-3
"""Of the largest logit. Machines contract float32 operations or not, and now and then a number that
is stored is rounded the other way for it, by 2**-11 of itself."""


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.skipif("f16c" not in parse("llvm").features, reason="nothing to compare with")
def test_a_network_gives_the_logits_of_this_machine(tmp_path):
    """A Cortex-A53 has no arithmetic in float16, and needs none."""
    A53.require()
    assert "fullfp16" not in parse(A53.target).features
    images = np.random.default_rng(2).standard_normal((4, 3, 16, 16), np.float32)
    logits = {}
    for machine in (NATIVE, A53):
        folder = tmp_path / machine.name
        tvm_insta.build(
            tiny_resnet(),
            torch.zeros(1, 3, 16, 16),
            target=machine.target,
            runtime="c",
            storage="fp16",
            out_dir=folder,
        )
        program = machine.link(folder)
        logits[machine] = machine.run(program, images, (16,))
        threaded = machine.run(program, images, (16,), threads=3)
        assert threaded.tobytes() == logits[machine].tobytes()
    expected = logits[NATIVE]
    assert np.abs(logits[A53] - expected).max() <= LOGITS * np.abs(expected).max()
