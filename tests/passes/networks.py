"""Small networks in plain PyTorch, none of them from tvm_insta.nn, and how to run Relax modules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
import tvm
from torch import nn

from tests.support.unoptimised import virtual_machine
from tvm_insta.frontend import import_torch
from tvm_insta.nn.options import ModelOptions
from tvm_insta.nn.resnet import BinaryResNet
from tvm_insta.passes import pipeline
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.passes.rewriter import op_name
from tvm_insta.target import parse


def signs(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1


class Binary(nn.Module):
    """A binary convolution; ``bits`` turns x into the activation."""

    def __init__(self, bits, channels=8, out=8, scale=0.5, groups=1, **conv):
        super().__init__()
        self.bits = bits
        self.weight = nn.Parameter(signs((out, channels // groups, 3, 3), 1) * scale)
        self.conv = {"padding": 1, "groups": groups, **conv}

    def forward(self, x):
        return F.conv2d(self.bits(x), self.weight, **self.conv)


class Halving(nn.Module):
    """ReActNet-A's block that halves the image and multiplies the channels, with thresholds of 0.

    A binary 3x3 convolution at stride 2, whose shortcut is the average of 2x2 pixels, then parallel
    binary 1x1 convolutions, which all add their input.
    """

    def __init__(self, channels=32, branches=2):
        super().__init__()
        generator = torch.Generator().manual_seed(channels)
        self.weights = nn.ParameterList(
            signs((channels, channels, size, size), size + at)
            for at, size in enumerate([3] + [1] * branches)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in self.weights)
        self.acts = nn.ModuleList(nn.PReLU(channels * count) for count in (1, branches))
        for norm, weight in zip(self.norms, self.weights, strict=True):
            norm.weight.data = torch.randn(channels, generator=generator)
            norm.bias.data = torch.randn(channels, generator=generator)
            norm.running_var.fill_(float(weight[0].numel()))
        for act in self.acts:
            act.weight.data = torch.rand(act.weight.shape, generator=generator)

    def forward(self, x):
        bits = torch.where(x >= 0, 1.0, -1.0)
        y = self.norms[0](F.conv2d(bits, self.weights[0], stride=2, padding=1))
        y = self.acts[0](y + F.avg_pool2d(x, 2))
        bits = torch.where(y >= 0, 1.0, -1.0)
        pairs = zip(self.weights[1:], self.norms[1:], strict=True)
        return self.acts[1](
            torch.cat([norm(F.conv2d(bits, weight)) + y for weight, norm in pairs], 1)
        )


def tiny_resnet(variant="insta", seed=0, **options):
    """A binary ResNet of two blocks on 8x8 images, whose thresholds do depend on the instance.

    The first block keeps 32 channels, the second has a shortcut with an average pool and a float
    convolution.
    """
    torch.manual_seed(seed)
    chosen = ModelOptions("resnet20", variant, num_classes=16, **options)
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1))
    model = BinaryResNet(chosen, stem, (32, 64), blocks=1).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".a", ".g1")):  # instance-aware modules start without effect
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def phases(module, *inputs, last="lower", lanes=8, max_batch=4, dynamic=True):
    """Run the phases up to ``last``; returns the module and the report."""
    imported = import_torch(module, list(inputs), max_batch=max_batch, dynamic=dynamic)
    done = run_pipeline(imported, Context(generic(lanes)), last=last)
    return done.mod, done.report


def generic(lanes):
    """A CPU without layouts of its own, with vectors of so many 32-bit lanes."""
    return replace(parse("llvm -mtriple=riscv64-linux-gnu"), lanes=lanes, vector_bits=32 * lanes)


def without(monkeypatch, *passes):
    """Take passes out of the pipeline."""
    _edit(monkeypatch, lambda each: [] if each in passes else [each])


def insert(monkeypatch, behind, new):
    """Put a pass into the pipeline, behind another."""
    _edit(monkeypatch, lambda each: [each, new] if each is behind else [each])


def _edit(monkeypatch, change):
    edited = [
        replace(phase, passes=tuple(new for each in phase.passes for new in change(each)))
        for phase in pipeline.PIPELINE
    ]
    monkeypatch.setattr(pipeline, "PIPELINE", tuple(edited))


def execute(mod, *inputs):
    """Run ``main`` with TVM's default pipeline on this machine."""
    result = virtual_machine(mod)["main"](
        *[tvm.runtime.tensor(np.ascontiguousarray(x)) for x in inputs]
    )
    return result.numpy()


def calls(mod):
    """Names of the operators that ``main`` calls, in order."""
    return [
        op_name(binding.value)
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if op_name(binding.value)
    ]


def agree(module, mod, x, tolerance):
    """Compare the Relax module with PyTorch on the batch ``x``."""
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    np.testing.assert_allclose(execute(mod, x.numpy()), expected, rtol=0, atol=tolerance)
