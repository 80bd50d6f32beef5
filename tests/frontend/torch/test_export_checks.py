"""Modules as projects write them: weights binarised in forward, values read in Python, .cuda()."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.export import export_graph


class KeptWeight(nn.Conv2d):
    """Keeps the real weights beside the parameter and binarises the parameter in forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.size(1) != 3:
            x.data = x.data.sign()
        if not hasattr(self.weight, "org"):
            self.weight.org = self.weight.data.clone()  # type: ignore[attr-defined]
        self.weight.data = self.weight.org.sign()  # type: ignore[attr-defined]
        out = F.conv2d(x, self.weight, None, self.stride, self.padding)
        if self.bias is not None:
            out += self.bias.view(1, -1, 1, 1).expand_as(out)
        return out


class RestoredWeight(nn.Conv2d):
    """Binarises the parameter for one convolution and puts the real weights back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        real = self.weight.data
        self.weight.data = real.sign() * real.abs().mean((1, 2, 3), keepdim=True)
        y = F.conv2d(x, self.weight, self.bias)
        self.weight.data = real
        return y


class ClampedInPlace(nn.Conv2d):
    """Writes into the parameter's memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data.clamp_(-0.05, 0.05)
        self.weight.data.copy_(self.weight.data.sub(self.weight.data.mean()))
        return F.conv2d(x, self.weight, self.bias)


class Net(nn.Module):
    """A stem, a layer, and a function of both."""

    def __init__(self, layer: Callable[..., nn.Module], tail: Tail | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = layer(3, 8, 3), layer(8, 4, 3)
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.tail = tail
        self.register_buffer("state", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(F.hardtanh(self.first(x)))
        return x if self.tail is None else self.tail(self, x)


Tail = Callable[[Net, torch.Tensor], torch.Tensor]

TAILS: dict[str, Tail] = {
    "item of a parameter": lambda m, x: x * m.temperature.item(),
    "item of a function of weights": lambda m, x: x / m.second.weight.abs().mean().item(),
    "float": lambda m, x: x * float(m.temperature),
    "branch on a parameter": lambda m, x: x * 2 if m.temperature > 0.5 else x,
    "branch on weights": lambda m, x: x * 3 if (m.first.weight > 0).any() else x,
    "numpy of a parameter": lambda m, x: x * float(np.exp(m.temperature.detach().numpy())),
    "from numpy": lambda m, x: x * torch.from_numpy(np.array(m.temperature.detach())),
    "tolist": lambda m, x: x * sum(m.second.bias.tolist()),
    "shape in Python": lambda m, x: x / np.sqrt(x.shape[1] * x.shape[2]),
    "a constant's value": lambda m, x: x * torch.ones(3).sum().item(),
    "a mask of a parameter": lambda m, x: x[:, m.second.bias > 0],
    "a mask and its opposite": lambda m, x: (
        x[:, m.second.bias > 0].sum(1) - x[:, ~(m.second.bias > 0)].sum(1)
    ),
    "a mask of a constant": lambda m, x: x[:, :, torch.eye(4) > 0],
    "nonzero": lambda m, x: x[:, (m.second.bias > 0).nonzero().squeeze(1)],
    "where": lambda m, x: x.index_select(1, torch.where(m.second.bias > 0)[0]),
    "masked_select": lambda m, x: x * m.second.bias.masked_select(m.second.bias > 0).mean(),
    "unique": lambda m, x: x * m.second.weight.sign().unique().numel(),
    "written with a parameter": lambda m, x: x * m.state.copy_(m.temperature * 2).item(),
}


def _kept(m: Net, key: str, value: Any) -> None:
    setattr(m, key, value)


NUMBERS: dict[str, Tail] = {
    "factor": lambda m, x: x * x.abs().max().item(),
    "of integers": lambda m, x: x * (x > 0).sum().item(),
    "of a truth": lambda m, x: x * (x > 0).any().item(),
    "quotient": lambda m, x: torch.round(x / (x.abs().max().item() / 7 + 1e-6)).clamp(-8, 7),
    "arithmetic": lambda m, x: x * (2 - abs(x.min().item()) * 3 // 0.5 + 1e-3) ** 2,
    "limits": lambda m, x: torch.clamp(x, -0.5, x.abs().mean().item()),
    "lower limit": lambda m, x: x.clamp(min=x.mean().item()),
    "threshold": lambda m, x: torch.where(x > 0.7 * x.abs().mean().item(), 1.0, -1.0),
    "filled": lambda m, x: torch.empty(1).fill_(x.mean().item()) * x,
    "tensor": lambda m, x: x * torch.tensor(x.mean().item()),
    "tolist": lambda m, x: x * x.max().tolist(),
    "written": lambda m, x: (m.state.copy_(x.mean()), x * m.state.item())[1],
    "assigned": lambda m, x: (setattr(m, "state", x.mean()), x * m.state.item())[1],
    "noted in an attribute": lambda m, x: (_kept(m, "rate", (x > 0).float().mean().item()), x)[1],
    "noted in a buffer": lambda m, x: (m.state.fill_((x > 0).sum().item()), x * 2)[1],
    "noted in a text": lambda m, x: (_kept(m, "log", f"{x.max().item():.3f} {x.min():.1e}"), x)[1],
    "printed": lambda m, x: (_kept(m, "log", str(x.max().item())), x)[1],
}
"""Numbers that are computed from the input, and are tensors in the graph."""

ON_ANOTHER_DEVICE: dict[str, Tail] = {
    "cuda": lambda m, x: x.cuda() * m.temperature.cuda(),
    "to": lambda m, x: x.to("cuda") * torch.ones(1, device="cuda"),
    "to a device": lambda m, x: x.to(torch.device("cuda:0")) * m.temperature,
}

REFUSED: dict[str, tuple[Tail, str]] = {
    "branch": (lambda m, x: x if x.sum() > 0 else -x, "branches on a value"),
    "item as a factor": (
        lambda m, x: torch.add(x, x, alpha=x.max().item()),
        "reads a number with .item()",
    ),
    "item as an element": (
        lambda m, x: torch.full((4, 1, 1), x.max().item()) * x,
        "reads a number with .item()",
    ),
    "float": (lambda m, x: x * math.sqrt(x.max().item()), "makes a Python number of a tensor"),
    "float in a text": (lambda m, x: x * float(f"{float(x.max()):.2f}"), "makes a Python number"),
    "a choice": (lambda m, x: x if x.max().item() > 0 else -x, "branches on a value"),
    "numpy": (lambda m, x: torch.from_numpy(x.numpy()) * 2, "turns a tensor into a numpy array"),
    "mixed": (lambda m, x: x if (x * m.temperature).max() > 0 else -x, "branches on a value"),
    "batch": (lambda m, x: x.reshape(2, -1), "fixes the size of the batch"),
}


def _image() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _same_as_eager(module: nn.Module, reference: nn.Module) -> None:
    before = [parameter.detach().clone() for parameter in module.parameters()]
    graph = export_graph(module, [_image()], max_batch=8, dynamic=True)
    for old, new in zip(before, module.parameters(), strict=True):
        assert torch.equal(old, new)
        assert not hasattr(new, "org")
    with torch.no_grad():
        x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2))
        assert torch.equal(graph(x.clone()), reference(x.clone()))


@pytest.mark.parametrize("layer", [nn.Conv2d, KeptWeight, RestoredWeight, ClampedInPlace])
def test_weights_written_in_forward(layer: type[nn.Conv2d]) -> None:
    _same_as_eager(Net(layer).eval(), Net(layer).eval())


@pytest.mark.parametrize("layer", [nn.Conv2d, KeptWeight])
@pytest.mark.parametrize("name", TAILS)
def test_values_that_do_not_depend_on_the_input(name: str, layer: type[nn.Conv2d]) -> None:
    _same_as_eager(Net(layer, TAILS[name]).eval(), Net(layer, TAILS[name]).eval())


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_the_input_are_tensors(name: str) -> None:
    _same_as_eager(Net(nn.Conv2d, NUMBERS[name]).eval(), Net(nn.Conv2d, NUMBERS[name]).eval())


@pytest.mark.parametrize("name", ON_ANOTHER_DEVICE)
def test_other_devices_become_the_cpu(name: str) -> None:
    plain: Tail = lambda m, x: x * (1 if name == "to" else m.temperature)  # noqa: E731
    _same_as_eager(Net(nn.Conv2d, ON_ANOTHER_DEVICE[name]).eval(), Net(nn.Conv2d, plain).eval())


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_line(name: str) -> None:
    tail, words = REFUSED[name]
    with pytest.raises(ImportModelError, match=words) as caught:
        export_graph(Net(nn.Conv2d, tail).eval(), [_image()], max_batch=8, dynamic=True)
    text = str(caught.value)
    assert "\n" not in text and ": " in text
    if name != "batch":  # torch.export says of the batch only that it is fixed
        assert "test_export_checks.py, line " in text
    assert "dynamic_batch" not in text


def test_the_module_is_left_as_it_was() -> None:
    module = Net(nn.Conv2d).eval()
    export_graph(module, [_image()], max_batch=8, dynamic=True)
    assert "forward" not in vars(module)
    module.tail = REFUSED["branch"][0]
    with pytest.raises(ImportModelError):
        export_graph(module, [_image()], max_batch=8, dynamic=True)
    assert "forward" not in vars(module)
