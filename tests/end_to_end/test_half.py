"""Networks in half precision: whole, in parts, under autocast, and a round trip before a sign."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from tvm import relax

import tvm_insta
from tvm_insta import ops
from tvm_insta.errors import ValidationError
from tvm_insta.frontend.torch import to_relax
from tvm_insta.validate import validate

DTYPES = (torch.bfloat16, torch.float16)
LAYERS = ("2", "4")  # the binary ones of `body`


class Sign(nn.Module):
    def forward(self, x):
        return torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))


class Binary(nn.Conv2d):
    """Signs times signs with one scale per filter, the scale in the type of the weights."""

    def forward(self, x):
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return F.conv2d(Sign()(x), torch.sign(self.weight) * scale, None, self.stride, self.padding)


def body() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        Binary(16, 24, 3, padding=1),
        nn.Sequential(nn.BatchNorm2d(24), nn.PReLU(24)),
        Binary(24, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2.0)
            each.weight.data.uniform_(0.5, 2.0)
            each.bias.data.normal_()
    return network.eval()


class Around(nn.Module):
    """A network in which something is in half precision."""

    def __init__(self, network, dtype):
        super().__init__()
        self.network, self.dtype = network, dtype


class Cast(Around):
    """Float32 outside, half precision inside."""

    def __init__(self, network, dtype):
        super().__init__(network.to(dtype), dtype)

    def forward(self, x):
        return self.network(x.to(self.dtype)).float()


class BinaryInHalf(Around):
    """The binary layers in half precision, what lies between them in float32."""

    def __init__(self, network, dtype):
        super().__init__(network, dtype)
        for layer in LAYERS:
            network[int(layer)].to(dtype)

    def forward(self, x):
        for layer in self.network:
            x = layer(x.to(self.dtype)).float() if isinstance(layer, Binary) else layer(x)
        return x


class RoundTrip(Around):
    """Float32 layers, a round trip by way of half precision before each sign."""

    def forward(self, x):
        for layer in self.network:
            x = layer(x.to(self.dtype).float() if isinstance(layer, Binary) else x)
        return x


class Autocast(Around):
    """Convolutions and products in bfloat16, the rest as autocast has it."""

    def forward(self, x):
        with torch.autocast("cpu", self.dtype):
            return self.network(x)


def whole(network, dtype):
    """`module.half()`, which takes and gives numbers of the type."""
    return network.to(dtype)


KINDS = {each.__name__: each for each in (whole, Cast, BinaryInHalf, RoundTrip, Autocast)}


CASES = [
    pytest.param((kind, dtype), id=f"{kind} {str(dtype).removeprefix('torch.')}", marks=marks)
    for kind in KINDS
    for dtype in DTYPES
    for marks in [pytest.mark.slow if dtype == DTYPES[kind in ("whole", "Cast")] else ()]
]
"""One type of each kind in every run: four compilations more take half a minute."""


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def dtype(case):
    return case[1]


@pytest.fixture(scope="module")
def network(case):
    kind, dtype = case
    return KINDS[kind](body(), dtype)


def images(count: int, network: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(count))
    return x.to(dtype) if isinstance(network, nn.Sequential) else x


@pytest.fixture(scope="module")
def artefacts(network, dtype):
    example = images(1, network, dtype)
    return [tvm_insta.build(network, example, runtime=form, max_batch=4) for form in ("c", "vm")]


def test_both_forms_give_pytorchs_logits(artefacts, network, dtype):
    for count in (1, 3):
        x = images(count, network, dtype)
        with torch.no_grad():
            expected = network(x).float().numpy()
        first, second = (artefact(x.float().numpy()) for artefact in artefacts)
        assert first.dtype == np.float32 and first.tobytes() == second.tobytes()
        # A stem's sum that lies between two numbers of the type moves few bits behind it; the
        # logits themselves may round to a neighbour.
        bound = 2 * torch.finfo(dtype).eps * np.abs(expected).max()
        assert np.abs(first - expected).max() <= bound


def test_binary_layers_are_packed(artefacts):
    for artefact in artefacts:
        packed = {layer.name for layer in artefact.report.layers if layer.source.binary}
        assert {name.removeprefix("network.") for name in packed} == set(LAYERS)


def test_validation_judges_every_site(artefacts, network, dtype):
    for artefact in artefacts:
        findings = validate(artefact.load(), network, [images(3, network, dtype)])
        assert not findings.failures() and not findings.not_judged and not findings.undecided


def cut_off(node, importer):
    """About what cutting the lower bits off gives: half a last place less."""
    emit = importer.block_builder.emit
    x = emit(relax.op.multiply(importer.env[node.args[0]], relax.const(1 - 2.0**-9, "float32")))
    return emit(ops.round_half(x, to=node.args[1]))


FAULTS = {"cut off": cut_off, "not rounded": lambda node, importer: importer.env[node.args[0]]}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["Cast", "RoundTrip"])
def test_other_roundings_are_refused(fault, kind, monkeypatch):
    monkeypatch.setitem(to_relax._OURS, "tvm_insta.round_half.default", FAULTS[fault])
    network = KINDS[kind](body(), torch.bfloat16)
    with pytest.raises(ValidationError, match=r"allowed for half precision|levels are not"):
        tvm_insta.build(network, images(1, network, torch.bfloat16), runtime="c", max_batch=1)
