"""Which spellings of a binary layer are recognised, and what is said of those that are not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.passes.networks import Binary, agree, calls, phases, signs

X = torch.randn(3, 8, 6, 5, generator=torch.Generator().manual_seed(0))
OFFSET = torch.linspace(-0.4, 0.4, 8).reshape(1, 8, 1, 1)
EXACT = 0.0
"""Sums of +-1 and multiples of 0.5 are exact in float32."""


def straight_through(x):
    hard, soft = torch.sign(x), torch.clamp(x, -1.0, 1.0)
    return hard.detach() - soft.detach() + soft


def instance_mean(x):
    return torch.where(x >= x.mean((2, 3), keepdim=True), 1.0, -1.0)


SPELLINGS = {
    "where ge": lambda x: torch.where(x >= 0, 1.0, -1.0),
    "where gt": lambda x: torch.where(x > 0.1, 1.0, -1.0),
    "where le, values turned round": lambda x: torch.where(x <= 0.1, -1.0, 1.0),
    "where lt, low first": lambda x: torch.where(x < 0.1, 1.0, -1.0),
    "number on the left": lambda x: torch.where(0.25 <= x, 1.0, -1.0),
    "cast, times two, minus one": lambda x: (x >= 0).float() * 2 - 1,
    "cast of a comparison (unsigned)": lambda x: (x >= 0).float(),
    "halves": lambda x: torch.where(x >= 0, 0.5, -0.5),
    "negated": lambda x: -torch.where(x >= 0, 1.0, -1.0),
    "channel offset added": lambda x: torch.where(x + OFFSET >= 0, 1.0, -1.0),
    "channel offset subtracted": lambda x: torch.sign(x - OFFSET),
    "channel thresholds": lambda x: torch.where(x >= OFFSET, 1.0, -1.0),
    "straight-through estimator": straight_through,
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_a_binarisation_become_packed_bits(name):
    module = Binary(SPELLINGS[name])
    mod, report = phases(module, X)
    assert [layer.kind for layer in report.layers] == ["binary"], report.layers
    assert "relax.insta.bitserial_conv2d_blocked" in calls(mod)
    assert not {"relax.insta.conv2d_blocked", "relax.where", "relax.sign"} & set(calls(mod))
    tolerance = 1e-6 if name == "straight-through estimator" else EXACT  # (a - b) + b in PyTorch
    agree(module, mod, X, tolerance)


def test_offsets_become_thresholds():
    mod, _ = phases(Binary(SPELLINGS["channel offset added"]), X)
    assert "relax.add" not in calls(mod)


class OffsetReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.binary = Binary(SPELLINGS["where ge"])

    def forward(self, x):
        x = x + OFFSET
        return self.binary(x) + x


def test_an_offset_that_somebody_else_reads_stays_in_the_activation():
    module = OffsetReadTwice()
    mod, report = phases(module, X)
    assert report.layers[0].kind == "binary"
    assert calls(mod).count("relax.add") == 2
    agree(module, mod, X, 1e-6)  # one sum of two float32


def test_threshold_that_depends_on_the_instance():
    module = Binary(instance_mean)
    mod, report = phases(module, X)
    assert report.layers[0].kind == "binary"
    agree(module, mod, X, EXACT)


class CrossAttention(nn.Module):
    """A threshold image of its own for every pixel, computed by a float convolution."""

    def __init__(self):
        super().__init__()
        self.threshold = nn.Conv2d(8, 8, 1)
        self.binary = Binary(lambda x: x)

    def forward(self, x):
        bits = torch.where(x >= self.threshold(x), 1.0, -1.0)
        return F.conv2d(bits, self.binary.weight, padding=1)


def test_threshold_per_pixel_from_any_computation():
    torch.manual_seed(0)
    module = CrossAttention()
    mod, report = phases(module, X)
    assert [layer.kind for layer in report.layers] == ["float", "binary"]
    agree(module, mod, X, EXACT)


def code(levels):
    def bits(x):
        total = torch.where(x >= levels[0], 1.0, 0.0)
        for level in levels[1:]:
            total = total + torch.where(x >= level, 1.0, 0.0)
        return total

    return bits


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("bipolar", [False, True])
def test_sums_of_comparisons_are_multi_bit_activations(bits, bipolar):
    levels = torch.linspace(-1, 1, 2**bits - 1).tolist()
    unsigned = code(levels)
    module = Binary((lambda x: unsigned(x) * 2 - (2**bits - 1)) if bipolar else unsigned)
    mod, report = phases(module, X)
    assert (report.layers[0].kind, report.layers[0].bits) == ("binary", bits)
    agree(module, mod, X, EXACT)


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_groups_and_strides(groups, stride):
    module = Binary(SPELLINGS["where ge"], groups=groups, stride=stride)
    mod, report = phases(module, X)
    assert report.layers[0].kind == "binary"
    agree(module, mod, X, EXACT)


class Dense(nn.Module):
    def __init__(self, features=40, out=6):
        super().__init__()
        self.weight = nn.Parameter(signs((out, features), 3) * 0.25)
        self.bias = nn.Parameter(torch.arange(out).float())

    def forward(self, x):
        return F.linear(torch.where(x >= 0, 1.0, -1.0), self.weight, self.bias)


def test_dense():
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    module = Dense()
    mod, report = phases(module, x, max_batch=8)
    assert [(layer.op, layer.kind) for layer in report.layers] == [("dense", "binary")]
    assert report.layers[0].weight_shape == (6, 40)
    agree(module, mod, x, EXACT)


def float_weight(module):
    module.weight.data += torch.linspace(0, 0.1, module.weight.numel()).reshape_as(module.weight)
    return module


def uneven_weight(module):
    """Four values whose outer gaps differ: neither a grid nor two bases."""
    module.weight.data[0, 0, 0], module.weight.data[0, 0, 1] = 0.1, 0.237
    return module


REASONS = {
    "its weights are real-valued": float_weight(Binary(SPELLINGS["where ge"])),
    "they are not evenly spaced": uneven_weight(Binary(SPELLINGS["where ge"])),
    "its input is real-valued": Binary(torch.relu),
    "its input was binarised and then changed by softmax in networks.py": Binary(
        lambda x: F.softmax(torch.sign(x), 1)
    ),
    "mean of up to 9 elements of 3 levels each (avg_pool2d in networks.py": Binary(
        lambda x: F.avg_pool2d(torch.sign(x), 3, 1, 1)
    ),
    "its input takes the values 0, 1, 3.3": Binary(
        lambda x: (x >= 0).float() + 2.3 * (x > 1).float()
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_every_float_layer_says_why(reason):
    module = REASONS[reason]
    mod, report = phases(module, X)
    assert report.layers[0].kind == "float"
    assert reason in report.layers[0].reason
    agree(module, mod, X, 1e-4)  # float32 sums of 72 products of about 1


@pytest.mark.parametrize(
    "made",
    [
        lambda x: torch.where(x > 0, 0.0, torch.softmax(x, 1)),
        lambda x: torch.sigmoid(x) + torch.zeros(1, 1, x.shape[2], 1),
    ],
    ids=["under a condition", "with a constant"],
)
def test_conditions_and_constants_were_not_binarised(made):
    _, report = phases(Binary(made), X)
    assert "its input is real-valued" in report.layers[0].reason


def ternary_weight(module):
    module.weight.data[0, 0, 0, 0] = 0.0
    return module


BINARY_TOO = {
    "ternary weights": (ternary_weight(Binary(SPELLINGS["where ge"])), (1, 2, 2)),
    "max pool of signs": (Binary(lambda x: F.max_pool2d(torch.sign(x), 3, 1, 1)), (2, 1, 1)),
    "values 0.25 and 1": (Binary(lambda x: torch.where(x >= 0, 1.0, 0.25)), (1, 1, 1)),
    "values 0, 1 and 3": (Binary(lambda x: (x >= 0).float() + 2 * (x > 1).float()), (2, 1, 1)),
    "average pool of signs": (
        Binary(lambda x: F.avg_pool2d(torch.where(x >= 0, 1.0, -1.0), 2)),
        (3, 1, 1),
    ),
    "three levels": (Binary(code([-0.5, 0.5])), (2, 1, 1)),
    "sign": (Binary(torch.sign), (2, 1, 1)),
}
"""Layers with the bits of an activation, the bits of a weight, and the number of planes."""


@pytest.mark.parametrize("name", BINARY_TOO)
def test_more_than_one_bit_or_one_plane(name):
    module, expected = BINARY_TOO[name]
    x = torch.cat([X, X.round(), torch.zeros_like(X)])  # signs of 0 among them
    mod, report = phases(module, x, max_batch=16)
    (layer,) = report.layers
    assert (layer.source.bits, layer.source.weight_bits, layer.source.planes) == expected
    assert calls(mod).count("relax.insta.bitserial_conv2d_blocked") == layer.source.planes
    agree(module, mod, x, EXACT)


def test_zero_channel_has_scale_zero():
    module = Binary(SPELLINGS["where ge"])
    module.weight.data[2] = 0.0
    mod, report = phases(module, X)
    assert report.layers[0].kind == "binary"
    agree(module, mod, X, EXACT)


class Moments(nn.Module):
    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling

    def forward(self, x):
        return self.spelling(x).mean((2, 3))


@pytest.mark.parametrize(
    "spelling",
    [
        lambda x: x,
        lambda x: x**3,
        lambda x: x * x * x,
        lambda x: x * (x * x),
        lambda x: x.square() * x.square(),
    ],
)
def test_moments(spelling):
    module = Moments(spelling)
    mod, _ = phases(module, X)
    assert "relax.insta.moment_rows" in calls(mod)
    agree(module, mod, X, 1e-5)  # sums of 30 cubes in another order


class Gate(nn.Module):
    """INSTA-Th+ as a stranger would write it."""

    def __init__(self, plus):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.fc1, self.fc2 = nn.Linear(8, 2), nn.Linear(2, 8)
        self.plus = plus
        self.binary = Binary(lambda x: x)

    def forward(self, x):
        m = (x * x * x).mean((2, 3))
        threshold = self.a * m + self.b
        if self.plus:
            threshold = threshold + torch.tanh(self.fc2(F.relu(self.fc1(m))))
        bits = torch.where(x >= threshold[:, :, None, None], 1.0, -1.0)
        return F.conv2d(bits, self.binary.weight, padding=1)


@pytest.mark.parametrize("plus", [False, True])
def test_instance_thresholds_become_one_kernel(plus):
    module = Gate(plus)
    mod, report = phases(module, X)
    names = calls(mod)
    assert names.count("relax.insta.instance_threshold") == 1
    assert "relax.tanh" not in names and "relax.matmul" not in names
    assert [layer.kind for layer in report.layers] == ["binary"]
    agree(module, mod, X, EXACT)


class ReadGate(Gate):
    """The hidden vector of the gate is a result, too."""

    def forward(self, x):
        m = (x * x * x).mean((2, 3))
        hidden = F.relu(self.fc1(m))
        threshold = self.a * m + self.b + torch.tanh(self.fc2(hidden))
        bits = torch.where(x >= threshold[:, :, None, None], 1.0, -1.0)
        return torch.cat([F.conv2d(bits, self.binary.weight, padding=1).mean((2, 3)), hidden], 1)


def test_a_product_that_is_read_elsewhere_stays_in_the_report():
    module = ReadGate(True)
    mod, report = phases(module, X)
    assert calls(mod).count("relax.insta.instance_threshold") == 1
    assert sorted(layer.name for layer in report.layers) == ["binary", "fc1"]
    agree(module, mod, X, 1e-5)


def test_a_power_of_a_power_many_times_is_found_at_once():
    def often(x):
        for _ in range(40):
            x = x * x
        return x

    module = Moments(lambda x: often(torch.clamp(x, -1, 1)))
    mod, _ = phases(module, X)
    agree(module, mod, X, 1e-5)


def test_a_layer_that_looks_binary_and_is_not_is_a_warning(caplog):
    _, report = phases(REASONS["its input is real-valued"], X)
    report.log()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "stays float: its input is real-valued" in caplog.text


def test_a_layer_with_real_weights_is_no_warning(caplog):
    _, report = phases(REASONS["its weights are real-valued"], X)
    report.log()
    assert {record.levelname for record in caplog.records} <= {"INFO"}
