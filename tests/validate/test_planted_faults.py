"""Faults planted in the compiler are found by the check that build makes by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta
from tvm_insta import nn as networks
from tvm_insta.errors import ValidationError
from tvm_insta.frontend.torch import import_torch as front_end
from tvm_insta.frontend.torch.levels import forms, layers, weights
from tvm_insta.ops import packing
from tvm_insta.passes import fold_scales, pipeline, recognise, to_nhwc
from tvm_insta.target import parse

CHANNELS = 40  # more than a word, and no multiple of one


class Net(nn.Module):
    """Every part that a fault is planted in, none of them symmetric."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.threshold = networks.InstaThreshold(CHANNELS)
        self.latent = nn.ParameterList(
            nn.Parameter(torch.randn(CHANNELS, CHANNELS, 3, 3)) for _ in range(2)
        )
        self.bias = nn.Parameter(torch.randn(CHANNELS))
        self.offset = nn.Parameter(torch.randn(1, CHANNELS, 1, 1))
        self.slope = nn.PReLU(CHANNELS)
        self.classes = nn.Linear(CHANNELS, 7)
        with torch.no_grad():
            self.threshold.a.normal_()
            self.threshold.b.normal_()
            self.slope.weight.uniform_(0.1, 0.9)

    def weight(self, at):
        latent = self.latent[at]
        return torch.sign(latent) * latent.abs().mean((1, 2, 3), keepdim=True)

    def forward(self, x):
        x = self.stem(x)
        y = F.conv2d(self.threshold(x), self.weight(0), self.bias, stride=(2, 1), padding=(1, 0))
        y = self.slope(F.avg_pool2d(y, 3, 2, 1, count_include_pad=False))
        y = torch.sign(F.relu(y) + self.offset)
        y = F.conv2d(F.pad(y, (1, 0, 0, 1)), self.weight(1))
        return self.classes(y.mean((2, 3)))


X = torch.randn(1, 3, 14, 12, generator=torch.Generator().manual_seed(7))


def build(module=None, **options):
    return tvm_insta.build((module or Net()).eval(), X, "llvm", **options)


def wrapped(patch, owner, name: str, change: Callable):
    """Replace a function by what `change` makes of its result and its arguments."""
    real = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: change(real, *args, **kwargs))


def negated(patch):
    def change(real, steps):
        codes = real(steps)
        other = {"ge": "lt", "gt": "le", "le": "gt", "lt": "ge"}[codes.compare]
        return dataclasses.replace(codes, compare=other)

    wrapped(patch, layers, "codes_of", change)


def thresholds_of_other_channels(patch):
    def change(real, before, value, hint):
        return real(
            before, value.flip(1) if hint == "threshold" and value.ndim == 4 else value, hint
        )

    wrapped(patch, layers, "buffer", change)


def interior_everywhere(patch):
    def change(real, *args, **kwargs):
        base, rows, columns = real(*args, **kwargs)
        middle = base[base.shape[0] // 2, base.shape[1] // 2]
        return np.broadcast_to(middle, base.shape).copy(), rows, columns

    wrapped(patch, packing, "border_tables", change)


def scales_of_other_channels(patch):
    def change(real, weight):
        signs, scale = real(weight)
        return signs, scale[::-1].copy()

    wrapped(patch, recognise, "binary_weight", change)


def divisor_of_whole_windows(patch):
    real = to_nhwc.relax.op.nn.avg_pool2d

    def pool(data, size, strides, padding, dilation, ceil, include, **kwargs):
        return real(data, size, strides, padding, dilation, ceil, True, **kwargs)

    patch.setattr(to_nhwc.relax.op.nn, "avg_pool2d", pool)


def other_bit_order(patch):
    wrapped(patch, packing, "pack_bits", lambda real, bits, groups=1: real(bits[..., ::-1], groups))


def bias_lost(patch):
    wrapped(
        patch,
        forms.Convolution,
        "shaped_bias",
        lambda real, self, node: forms.buffer(node, torch.zeros(1, 1, 1, 1), "bias"),
    )


def padding_on_the_other_side(patch):
    wrapped(
        patch,
        forms,
        "_zero_padded",
        lambda real, data: (real(data)[0], (*real(data)[1][2:], *real(data)[1][:2])),
    )


def strides_swapped(patch):
    wrapped(patch, forms, "_pair", lambda real, values: real(values)[::-1])


def other_moment(patch):
    wrapped(
        patch,
        recognise.ops,
        "moments",
        lambda real, x, orders: real(x, orders=[2 if order == 3 else order for order in orders]),
    )


def factor_doubled(patch):
    def change(real, steps):
        codes = real(steps)
        return dataclasses.replace(codes, factor=2 * codes.factor)

    wrapped(patch, layers, "codes_of", change)


def shifts_of_other_channels(patch):
    def change(real, self, affine):
        return real(self, dataclasses.replace(affine, shift=affine.shift[::-1].copy()))

    wrapped(patch, fold_scales._FoldScales, "_emit_affine", change)


def sign_of_zero(patch):
    wrapped(
        patch,
        front_end,
        "normalise",
        lambda real, graph, **_: real(graph, sign_of_zero="+1"),
    )


def weights_inverted_in_one_channel(patch):
    def change(real, flat, shape):
        planes = real(flat, shape)
        signs = planes.signs[0].clone()
        signs[3] = ~signs[3]
        return dataclasses.replace(planes, signs=(signs,))

    wrapped(patch, weights, "_magnitudes", change)


FAULTS = [
    negated,
    thresholds_of_other_channels,
    interior_everywhere,
    scales_of_other_channels,
    divisor_of_whole_windows,
    other_bit_order,
    bias_lost,
    padding_on_the_other_side,
    strides_swapped,
    other_moment,
    factor_doubled,
    shifts_of_other_channels,
    weights_inverted_in_one_channel,
]


def test_the_network_is_right_without_a_fault():
    artefact = build()
    assert artefact.manifest.options["checked"] == "passed"
    assert sum(layer.kind == "binary" for layer in artefact.report.layers) == 2


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault, monkeypatch, tmp_path):
    fault(monkeypatch)
    with pytest.raises(
        Exception, match=r"does not compute what PyTorch|report this as a fault|must be"
    ) as e:
        build(out_dir=tmp_path / "artefact")
    assert isinstance(e.value, tvm_insta.errors.InstaError)
    assert not (tmp_path / "artefact").exists()


class SignOfRelu(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 32, 3)
        self.weight = nn.Parameter(torch.sign(torch.randn(8, 32, 3, 3)))

    def forward(self, x):
        return F.conv2d(torch.sign(F.relu(self.stem(x))), self.weight)


def test_a_lost_third_level_is_found(monkeypatch):
    build(SignOfRelu())
    sign_of_zero(monkeypatch)
    with pytest.raises(ValidationError, match="sign"):
        build(SignOfRelu())


def test_shifted_ranges_of_8_bit_layers_are_found(monkeypatch):
    if "avx512vnni" not in parse("llvm").features:
        pytest.skip("this CPU has no avx512vnni")
    build(stem="int8", calibrate="random")
    wrapped(
        monkeypatch,
        pipeline,
        "calibrate",
        lambda real, *args: {name: value / 8 for name, value in real(*args).items()},
    )
    with pytest.raises(ValidationError, match="rms"):
        build(stem="int8", calibrate="random")


def test_the_check_can_be_skipped_and_the_manifest_says_so(monkeypatch):
    negated(monkeypatch)
    assert build(check=False).manifest.options["checked"] == "skipped"
