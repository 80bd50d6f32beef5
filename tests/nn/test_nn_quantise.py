from __future__ import annotations

import pytest
import torch

from tvm_insta import nn
from tvm_insta.errors import ModelError


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("encoding", ["unsigned", "bipolar"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_code_counts_the_levels_reached(
    *,
    bits: int,
    encoding: str,
    channels: int | None,
    rank: int,
    training: bool,
    generator: torch.Generator,
) -> None:
    levels = 2**bits - 1
    module = nn.MultiBitActivation(bits, encoding=encoding, channels=channels).train(training)
    with torch.no_grad():
        module.thresholds.add_(torch.randn(module.thresholds.shape, generator=generator))
    shape = (4, 3, 2, 5)[:rank]
    x = 6 * torch.randn(shape, generator=generator)
    x[0, 0] = module.thresholds[0, 0].item()  # exactly on a threshold: reached
    got = module(x)

    for channel in range(3):
        thresholds = module.thresholds[:, channel if channels else 0].tolist()
        for value, result in zip(
            x[:, channel].flatten().tolist(), got[:, channel].flatten().tolist(), strict=True
        ):
            code = sum(value >= threshold for threshold in thresholds)
            assert result == (code if encoding == "unsigned" else 2 * code - levels)


def test_levels_at_the_start() -> None:
    x = torch.tensor([[-9.0, -0.6, 0.4, 0.5, 1.4, 1.5, 2.6, 9.0]])
    assert nn.MultiBitActivation(2)(x).tolist() == [[0, 0, 0, 1, 1, 2, 3, 3]]
    bipolar = nn.MultiBitActivation(2, encoding="bipolar")
    assert bipolar(x).tolist() == [[-3, -1, 1, 1, 3, 3, 3, 3]]


@pytest.mark.parametrize(("encoding", "slope"), [("unsigned", 1.0), ("bipolar", 2.0)])
@pytest.mark.parametrize("step", [1.0, 0.5])
def test_gradient_is_straight_inside_the_range(encoding: str, slope: float, step: float) -> None:
    module = nn.MultiBitActivation(3, encoding=encoding, step=step)
    first, last = module.thresholds[0, 0].item(), module.thresholds[-1, 0].item()
    x = torch.linspace(first, last, 33).view(1, -1).requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None and module.thresholds.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x.grad, slope / step))
    # Raising a threshold lowers the code.
    assert bool((module.thresholds.grad < 0).all())
    outside = torch.tensor([[first - 1.5 * step, last + 1.5 * step]], requires_grad=True)
    module(outside).sum().backward()
    assert outside.grad is not None and outside.grad.tolist() == [[0.0, 0.0]]


def test_one_bipolar_bit_is_rsign(generator: torch.Generator) -> None:
    x = torch.randn(2, 4, 3, 3, generator=generator)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    bits, expected = nn.MultiBitActivation(1, encoding="bipolar")(one), nn.RSign(4)(other)
    assert torch.equal(bits, expected)
    bits.sum().backward()
    expected.sum().backward()
    assert one.grad is not None and other.grad is not None
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("bits", [1, 4])
def test_export_gives_plain_comparisons(bits: int, generator: torch.Generator) -> None:
    module = nn.MultiBitActivation(bits, channels=3).eval()
    x = torch.randn(2, 3, 4, 4, generator=generator)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    larger = 4 * torch.randn(5, 3, 4, 4, generator=generator)
    assert torch.equal(exported.module()(larger), module(larger))
    compared = [n for n in exported.graph.nodes if n.target == torch.ops.aten.ge.Tensor]
    assert len(compared) == 2**bits - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "allowed are 1 to 4"),
        ({"bits": 5}, "allowed are 1 to 4"),
        ({"bits": 2, "encoding": "bipolr"}, "did you mean 'bipolar'"),
        ({"bits": 2, "channels": 0}, "at least 1"),
        ({"bits": 2, "step": 0.0}, "positive"),
        ({"bits": 2, "step": float("nan")}, "positive"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        nn.MultiBitActivation(**arguments)  # type: ignore[arg-type]
