"""The three networks in their variants, and networks of strangers, against PyTorch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta
from tests.support.small import small_resnet
from tvm_insta import nn as tvm_nn
from tvm_insta.nn import create, input_shape
from tvm_insta.validate import validate


def inputs(shape, count, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


LARGE = [
    ("resnet18", "insta", "vm"),
    ("resnet18", "insta", "c"),
    ("resnet18", "insta_plus", "vm"),
    ("mobilenet_v1", "baseline", "vm"),
    ("mobilenet_v1", "insta", "vm"),
    ("mobilenet_v1", "insta_plus", "c"),
]
"""Every variant and form; the baseline's kernels are among those of the others."""


@pytest.mark.slow
@pytest.mark.parametrize(("model", "variant", "runtime"), LARGE)
def test_large_networks(model, variant, runtime):
    network = create(model, variant)
    x = inputs(input_shape(model)[-3:], 2)
    artefact = tvm_insta.build(network, x, runtime=runtime, check=False)
    findings = validate(artefact.load(), network, [x])
    assert findings.failures() == []
    assert findings.bits > 0
    binary = [layer for layer in artefact.manifest.layers if layer.kind == "binary"]
    assert len(binary) == {"resnet18": 16, "mobilenet_v1": 31}[model]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["baseline", "insta", "insta_plus"])
@pytest.mark.parametrize("statistic", tvm_nn.STATISTICS)
def test_statistics(variant, statistic):
    if variant == "baseline" and statistic != "mean":
        pytest.skip("the baseline has no statistics")
    network = small_resnet(variant, statistic=statistic, reuse_statistics=True)
    x = inputs((3, 16, 16), 2)
    artefact = tvm_insta.build(network, x)
    assert validate(artefact.load(), network, [x]).failures() == []


class Stranger(nn.Module):
    """Binary layers in nobody's style: sign with a straight-through estimator, no scale."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 33, 3, 2, 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(33, 33, k, padding=k // 2, dilation=1, bias=k == 5) for k in (1, 3, 5)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(33) for _ in range(3))
        self.head = nn.Linear(33, 7)

    def forward(self, x):
        x = self.stem(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = norm(x)
            soft = torch.clamp(y, -1, 1)
            bits = (torch.sign(y) - soft).detach() + soft
            weight = torch.sign(conv.weight)
            x = F.hardtanh(F.conv2d(bits, weight, conv.bias, padding=conv.padding) / 30 + x)
        return self.head(x.mean((2, 3)))


def test_a_strangers_network():
    network = Stranger().eval()
    x = inputs((3, 17, 11), 3)
    artefact = tvm_insta.build(network, x[:1], max_batch=4)
    kinds = {layer.name: layer.kind for layer in artefact.manifest.layers}
    assert sorted(kinds.values()) == ["binary"] * 3 + ["float"] * 2
    assert validate(artefact.load(), network, [x]).failures() == []


@pytest.mark.slow
def test_the_validator_finds_a_wrong_network():
    """It must be able to fail: one weight of one binary layer turned round."""
    network = create("resnet20", "insta")
    x = inputs((3, 32, 32), 1)
    artefact = tvm_insta.build(network, x)
    conv = next(m for m in network.modules() if type(m).__name__ == "BinaryConv2d")
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] *= -1
    failures = validate(artefact.load(), network, [x]).failures()
    assert any("for the same bits" in failure for failure in failures)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_verify_stages_and_dump_ir(runtime, tmp_path, capsys):
    network = small_resnet("insta")
    dump = tmp_path / "ir"
    tvm_insta.build(
        network, inputs((3, 16, 16), 1), runtime=runtime, verify_stages=True, dump_ir=dump
    )
    assert capsys.readouterr().out.count("differs from PyTorch by") == 8
    names = sorted(path.name for path in dump.iterdir())
    assert names[0] == "0_imported.py" and names[-1] == "7_schedule.py" and len(names) == 8
    assert "R.insta.bitserial_conv2d_blocked" in (dump / "5_lower.py").read_text()


class MultiBit(nn.Module):
    def __init__(self, encoding):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 40, 3, padding=1)
        self.acts = nn.ModuleList(
            tvm_nn.MultiBitActivation(bits, encoding=encoding, channels=40) for bits in (2, 3, 1, 4)
        )
        self.convs = nn.ModuleList(tvm_nn.BinaryConv2d(40, 40, 3, padding=1) for _ in self.acts)
        self.norms = nn.ModuleList(nn.BatchNorm2d(40) for _ in self.acts)
        self.head = nn.Linear(40, 5)

    def forward(self, x):
        x = self.stem(x)
        for act, conv, norm in zip(self.acts, self.convs, self.norms, strict=True):
            x = norm(conv(act(x))) + x
        return self.head(x.mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["unsigned", "bipolar"])
def test_multi_bit_activations(encoding):
    network = MultiBit(encoding).eval()
    x = inputs((3, 9, 8), 2)
    artefact = tvm_insta.build(network, x)
    assert [layer.bits for layer in artefact.manifest.layers] == [0, 2, 3, 1, 4, 0]
    findings = validate(artefact.load(), network, [x])
    assert findings.failures() == []
    assert findings.bits == 2 * 40 * 9 * 8 * (3 + 7 + 1 + 15)


class FloatMask(nn.Module):
    """A comparison that feeds no binary layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        x = self.conv(x)
        return self.head((x * (x > 0.1).float()).mean((2, 3)))


def test_comparisons_that_feed_float_layers_are_judged_by_the_output():
    network = FloatMask().eval()
    x = inputs((3, 9, 8), 2)
    artefact = tvm_insta.build(network, x)
    findings = validate(artefact.load(), network, [x])
    assert findings.verdict == "valid" and findings.logits_free < 1e-5
    assert findings.outputs_judged == 2


class Cast(nn.Module):
    """Unsigned bits and bipolar bits, both as casts of a comparison."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = tvm_nn.BinaryConv2d(16, 16, 3, padding=1)
        self.second = tvm_nn.BinaryConv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        x = self.first((x - 0.1 >= 0).float()) + x
        x = self.second((x > 0.5).float() * 2 - 1) + x
        return x.mean((2, 3))


def test_casts_of_comparisons_are_validated_bit_by_bit():
    network = Cast().eval()
    x = inputs((3, 9, 8), 2)
    artefact = tvm_insta.build(network, x)
    assert [layer.kind for layer in artefact.manifest.layers] == ["float", "binary", "binary"]
    findings = validate(artefact.load(), network, [x])
    assert findings.verdict == "valid"
    assert findings.bits == 2 * 2 * 16 * 9 * 8


class OffsetSign(nn.Module):
    """ReActNet's own spelling of RSign; the sum feeds nothing else, so the offset moves."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.offset = nn.Parameter(torch.randn(16, 1, 1) * 0.2)
        self.norm = nn.BatchNorm2d(16)
        self.first = tvm_nn.BinaryConv2d(16, 16, 3, padding=1)
        self.second = tvm_nn.BinaryConv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        x = self.norm(self.first(torch.sign(x + self.offset))) + x
        x = self.second(torch.sign(x)) + x
        return x.mean((2, 3))


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_moved_offsets_are_validated_in_both_forms(runtime):
    network = OffsetSign().eval()
    x = inputs((3, 9, 8), 2)
    artefact = tvm_insta.build(network, x, runtime=runtime)
    findings = validate(artefact.load(), network, [x])
    assert findings.verdict == "valid"
    assert findings.bits == 2 * 2 * 16 * 9 * 8 * 3  # torch.sign has a third value: two bits


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_the_validator_finds_wrong_constant_thresholds(runtime):
    """The artefact's own thresholds are judged too: with others its bits are wrong."""
    network = OffsetSign().eval()
    x = inputs((3, 9, 8), 1)
    module = tvm_insta.build(network, x, runtime=runtime).load()
    first, second = module.manifest.binarisations
    wrong = dataclasses.replace(first, thresholds="0000803f" * (len(first.thresholds) // 8))
    module.manifest = dataclasses.replace(module.manifest, binarisations=(wrong, second))
    failures = validate(module, network, [x]).failures()
    assert any("packed codes are not the comparison" in failure for failure in failures)


def test_verify_stages_of_a_module_in_training_mode():
    network = OffsetSign().train()
    with torch.no_grad():
        network.norm.running_mean += 1.0  # so that the modes differ
    artefact = tvm_insta.build(network, inputs((3, 9, 8), 2), verify_stages=True)
    assert network.training and artefact.manifest.layers
