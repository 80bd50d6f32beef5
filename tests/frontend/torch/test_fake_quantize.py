"""Fake quantisation of torch.ao.quantization, in modules and in graphs that torch.fx has traced."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.utils._pytree import tree_leaves

from tests.frontend.torch.graphs import exported
from tvm_insta.errors import ImportModelError

CHANNELS = 5
EDGES = torch.tensor([0.0, -0.0, torch.nan, 1e10, -1e10, 0.5, -2.5, 1e-30])

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.ao.quantization:DeprecationWarning")


def computed(network, x):
    """What the exported graph gives, executed by PyTorch."""
    with torch.no_grad():
        (found,) = tree_leaves(exported(network, x, folded=False)(x))
    return found


def numbers(scales, seed):
    """``[4, CHANNELS, 40]`` with multiples of half a step, where codes change."""
    x = torch.randn(4, CHANNELS, 40, generator=torch.Generator().manual_seed(seed)) * 3
    x[:, :, :16] = (x[:, :, :16] * 2).round() * 0.5 * scales.reshape(-1, 1)
    x[:, :, -len(EDGES) :] = EDGES
    return x


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    scales=st.lists(st.floats(2.0**-10, 10.0, width=32), min_size=CHANNELS, max_size=CHANNELS),
    low=st.integers(-8, 0),
    steps=st.integers(1, 15),
    data=st.data(),
)
def test_what_is_written_out_is_pytorchs(scales, low, steps, data):
    zeros = data.draw(st.lists(st.integers(low, low + steps), min_size=5, max_size=5))
    scale, zero, high = torch.tensor(scales), torch.tensor(zeros, dtype=torch.int32), low + steps
    x = numbers(scale, data.draw(st.integers(0, 99)))
    ways = [
        lambda x: torch.fake_quantize_per_tensor_affine(x, scales[0], zeros[0], low, high),
        lambda x: torch.fake_quantize_per_tensor_affine(x, scale[:1], zero[:1], low, high),
        lambda x: torch.fake_quantize_per_channel_affine(x, scale, zero, 1, low, high),
    ]
    for way in ways:
        assert torch.equal(computed(way, x), way(x))


def prepared():
    """A traced network ready for training, its ranges observed once."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    mapping = quantization.get_default_qat_qconfig_mapping("x86")
    traced = quantize_fx.prepare_qat_fx(network.train(), mapping, (x,))
    traced(x)
    return traced, x


def test_a_network_prepared_by_fx_is_exported():
    traced, x = prepared()
    traced.apply(quantization.disable_observer).eval()
    found = computed(traced, x)
    torch.testing.assert_close(found, traced(x), rtol=0, atol=0)
    traced.apply(quantization.disable_fake_quant)
    found = computed(traced, x)
    torch.testing.assert_close(found, traced(x), rtol=0, atol=0)


def test_observers_are_to_be_disabled():
    traced, x = prepared()
    with pytest.raises(ImportModelError, match="disable_observer"):
        exported(traced.eval(), x)


class Scaled(nn.Module):
    """Reads a number of a parameter in Python, and another one of the input."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return x * self.scale.item()


def test_a_traced_module_is_watched_as_its_source_is():
    """torch.export interprets the graph of a GraphModule and does not call its forward."""
    x = torch.ones(2, 3)
    assert torch.equal(computed(fx.symbolic_trace(Scaled()), x), x * 3)
    assert torch.equal(computed(fx.symbolic_trace(lambda x: x * x.sum().item()), x), x * x.sum())
    of_the_input = fx.symbolic_trace(lambda x: x * x.numpy())
    with pytest.raises(ImportModelError, match="turns a tensor into a numpy array"):
        exported(of_the_input, x)
