"""The parts of a training step, each against what it stands for."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from tvm_insta import nn
from tvm_insta.nn.blocks import ResNetBlock
from tvm_insta.train import fused
from tvm_insta.train.coefficients import Coefficients
from tvm_insta.train.optimiser import learning_rate
from tvm_insta.train.progress import Progress
from tvm_insta.train.survey import survey

OPTIONS = nn.ModelOptions("resnet20", "insta_plus", 10)


def images(count=4, seed=0):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=25)
@given(
    some.integers(2, 5),
    some.sampled_from([1, 3, 16]),
    some.integers(1, 6),
    some.floats(-2, 2),
    some.integers(0, 2**31),
)
def test_fused_normalisation_is_pytorchs(count, channels, size, offset, seed):
    """Result, gradients and running statistics, of any size and offset."""
    torch.manual_seed(seed)
    theirs = torch.nn.BatchNorm2d(channels)
    with torch.no_grad():
        theirs.weight.uniform_(-2, 2)
        theirs.bias.uniform_(-1, 1)
    holder = torch.nn.Sequential(copy.deepcopy(theirs))
    fused.fuse_batch_norms(holder, 1)
    x = (torch.randn(count, channels, size, size) + offset).requires_grad_()
    y = x.detach().clone().requires_grad_()
    factor = torch.randn(count, channels, size, size)
    expected, got = theirs(x), holder(y)
    # float32: E[x^2] - E[x]^2 loses a few bits more than Welford's method.
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    (expected * factor).sum().backward()
    (got * factor).sum().backward()
    torch.testing.assert_close(y.grad, x.grad, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(holder[0].weight.grad, theirs.weight.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(holder[0].bias.grad, theirs.bias.grad, rtol=1e-4, atol=1e-4)
    for name in ("running_mean", "running_var"):
        mine = getattr(holder[0], name)
        torch.testing.assert_close(mine, getattr(theirs, name), rtol=1e-3, atol=1e-4)
    assert int(holder[0].num_batches_tracked) == 1
    holder.eval(), theirs.eval()
    torch.testing.assert_close(holder(x), theirs(x), rtol=1e-3, atol=1e-3)


def test_bf16_is_used_in_training_only_and_bits_are_exact():
    conv = nn.BinaryConv2d(16, 8, 3)  # sums up to 144, which 8 bits of mantissa hold
    x = torch.where(torch.randn(2, 16, 9, 9) > 0, 1.0, -1.0)
    plain = conv.train()(x)
    conv.training_dtype = torch.bfloat16
    assert torch.equal(conv(x), plain) and plain.dtype == torch.float32
    wide = nn.BinaryConv2d(64, 8, 3)  # sums up to 576 are rounded
    ones = torch.ones(1, 64, 5, 5)
    with torch.no_grad():
        wide.weight.fill_(0.5).view(8, -1)[:, 0] = -0.5  # 574, which bfloat16 gives as 576
    exact = wide.eval()(ones)
    wide.training_dtype = torch.bfloat16
    assert torch.equal(wide(ones), exact)
    assert not torch.equal(wide.train()(ones), exact)


def test_a_compiled_block_computes_what_it_says():
    """Result and gradients of one block, compiled and not."""
    pytest.importorskip("torch._inductor")
    model = nn.build(OPTIONS, init="seeded").train()
    fused.fuse_batch_norms(model, 1)
    block = model.get_submodule("stage1.0")
    assert isinstance(block, ResNetBlock)
    other = copy.deepcopy(block)
    try:
        fused.compile_blocks(block)
    except Exception as error:
        pytest.skip(f"no compiler: {error}")
    results = []
    for one in (other, block):
        x = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y, _ = one(x, None)
        (y * y).mean().backward()
        results.append((y.detach(), x.grad, {n: p.grad for n, p in one.named_parameters()}))
    (y, dx, grads), (cy, cdx, cgrads) = results
    torch.testing.assert_close(cy, y, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(cdx, dx, rtol=1e-2, atol=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(cgrads[name], grad, rtol=1e-2, atol=1e-5, msg=name)


def test_coefficients_step_as_if_the_statistic_were_divided_by_its_size():
    """Against a network that multiplies alpha by m / r, trained by plain Adam."""
    m = torch.tensor([[30.0, -20.0], [25.0, 22.0], [1e-2, 2e-2]]).T  # [2 images, 3 channels]
    root = m.square().mean(dim=0).sqrt()
    target = torch.tensor([0.3, -0.2, 0.1])
    alpha = torch.nn.Parameter(torch.zeros(3))
    plain = torch.optim.Adam([alpha], lr=1e-2)
    holder = torch.nn.Sequential(nn.InstaThreshold(3))
    a = holder[0].a
    scaled = torch.optim.Adam([a], lr=1e-2)
    coefficients = Coefficients(holder, 1.0)
    coefficients.set("0", m.square().mean(dim=0))
    for _ in range(20):
        ((alpha * (m / root) - target) ** 2).sum().backward()
        plain.step()
        plain.zero_grad()
        ((a * m - target) ** 2).sum().backward()
        coefficients.before_step()
        scaled.step()
        coefficients.after_step()
        scaled.zero_grad()
    torch.testing.assert_close(a * root, alpha.data, rtol=1e-4, atol=1e-6)
    assert bool((alpha.abs() > 0.01).all()), "something was learned"


def test_a_growing_statistic_keeps_its_part_of_the_threshold():
    """a r is kept when r is measured again; the first measurement of an epoch changes nothing."""
    holder = torch.nn.Sequential(nn.InstaThresholdPlus(4, reduction=2))
    threshold, coefficients = holder[0], Coefficients(holder, 1.0)
    with torch.no_grad():
        threshold.a.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
    fresh = threshold.fc1.weight.detach().clone()
    root = torch.tensor([2.0, 4.0, 0.5, 1.0])
    kept = threshold.a.detach().clone()
    coefficients.set("0", root**2)
    assert torch.equal(threshold.a, kept) and torch.equal(threshold.fc1.weight, fresh)
    grown = root * torch.tensor([3.0, 1.0, 0.1, 27.0])
    coefficients.set("0", grown**2)
    torch.testing.assert_close(threshold.a * grown, kept * root)
    torch.testing.assert_close(threshold.fc1.weight * grown, fresh * root)
    coefficients.forget()
    kept = threshold.a.detach().clone()
    coefficients.set("0", root**2)
    assert torch.equal(threshold.a, kept)


def test_a_survey_measures_and_changes_nothing():
    model = nn.build(OPTIONS, init="seeded", seed=1).train()
    with torch.no_grad():
        dead = model.get_submodule("stage1.3.threshold")
        dead.b[:5] = 1e6  # five channels of 16 are never reached
    before = {name: value.clone() for name, value in model.state_dict().items()}
    coefficients = Coefficients(model, 1.0)
    batches = [images(4, seed) for seed in range(2)]
    share = survey(model, batches, coefficients)
    channels = 7 * 16 + 6 * 32 + 5 * 64
    assert 5 / channels <= share < 0.2
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.training and not any(m._forward_hooks for m in model.modules())
    assert all(b.momentum == 0.1 for b in model.modules() if isinstance(b, torch.nn.BatchNorm2d))
    # The first threshold reads the stem: its statistic can be computed by hand.
    squares = []
    for batch in batches:
        stem = copy.deepcopy(model.get_submodule("stem")).train()
        squares.append(nn.measure(stem(batch)).square().mean(dim=0))
    expected = torch.stack(squares).mean(dim=0).sqrt()
    first = model.get_submodule("stage1.0.threshold")
    torch.testing.assert_close(coefficients.divisors[first.a], expected)
    assert first.fc1.weight in coefficients.divisors


def test_the_learning_rate_rises_then_falls_linearly():
    rates = [learning_rate(2.0, position, 0.25) for position in (0, 0.125, 0.25, 0.625, 1)]
    assert rates == [0, 1, 2, 1, 0]
    assert learning_rate(2.0, 0.0, 0.0) == 2.0


def test_progress_on_a_terminal_and_elsewhere():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream in (Terminal(), io.StringIO()):
        progress = Progress(4, stream=stream)
        progress.part("decoding train images", 5, 10)
        progress.batch(0.5, 2.0, 0.25)
        progress._shown = 0.0
        progress.batch(1.0, 1.5, 0.5)
        progress.line("epoch 1", 1)
        text = stream.getvalue()
        assert text.endswith("to go\n") and "\nepoch 1" in "\n" + text.replace("\r", "\n")
        shown = "|#####...............| epoch 2/4, loss 1.500, accuracy 50.0%" in text
        assert shown == stream.isatty()
