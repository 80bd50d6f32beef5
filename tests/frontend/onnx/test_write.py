"""Networks written as ONNX: read back, run by ONNX Runtime, and small."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

from tests.frontend.onnx.models import by_runtime
from tvm_insta import export as export_command
from tvm_insta import nn as networks
from tvm_insta.compiler import onnx_model
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx import load, onnx_module, settle
from tvm_insta.frontend.onnx.load import QONNX
from tvm_insta.frontend.onnx.write import export
from tvm_insta.frontend.onnx.write.aten import RULES
from tvm_insta.frontend.onnx.write.graph_writer import GraphWriter


class Blocks(nn.Module):
    """Binary layers of all kinds, and the operators around them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.latent = nn.Parameter(torch.randn(32, 32, 3, 3))
        self.prelu = nn.PReLU(32)
        self.head = nn.Linear(32 * 4, 10, bias=False)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.head.weight.sign_()
            self.prelu.weight.uniform_(0, 1)

    def forward(self, x):
        x = self.norm(self.stem(x))
        weight = torch.where(self.latent >= 0, 1.0, -1.0) * self.latent.abs().mean((1, 2, 3), True)
        y = F.conv2d(torch.where(x >= x.mean((2, 3), keepdim=True), 1.0, -1.0), weight, padding=1)
        y = self.prelu(y + x)
        y = F.max_pool2d(F.hardtanh(y), 2)
        z = torch.where(y.flatten(1) >= 0.1, 1.0, -1.0)
        return torch.log_softmax(self.head(z), 1)


def example():
    return torch.zeros(1, 3, 8, 8)


def images(count=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 8, 8, generator=generator)


def test_onnx_runtime_gives_what_pytorch_gives():
    module = Blocks().eval()
    model = export(module, [example()])
    onnx.checker.check_model(model, full_check=True)
    with torch.no_grad():
        expected = module(images()).numpy()
    name = model.graph.input[0].name
    found = by_runtime(model, {name: images().numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert load(model).inputs[0].shape == (None, 3, 8, 8)


def test_layers_are_named_after_their_modules():
    model = export(Blocks().eval(), [example()])
    named = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert named[0] == "stem" and named[2] == "head"
    assert "stem" in onnx_module(load(model)).onnx_names.values()


def test_binary_weights_are_bytes():
    """int8 and a scale per output channel: the same weights, at a quarter of the size."""
    small, large = (
        export(Blocks().eval(), [example()], quantised_weights=quantised)
        for quantised in (True, False)
    )
    assert small.ByteSize() < large.ByteSize() / 2
    stored = {each.name: numpy_helper.to_array(each) for each in small.graph.initializer}
    signs = [array for array in stored.values() if array.dtype == np.int8 and array.ndim > 1]
    assert sorted(array.shape for array in signs) == [(10, 128), (32, 32, 3, 3)]
    assert all(set(np.unique(array)) == {-1, 1} for array in signs)
    modules = [onnx_module(load(model)) for model in (small, large)]
    names = [name for name in modules[0].onnx_names]
    for name in names:
        weights = [module.get_buffer(f"{name}.weight") for module in modules]
        assert torch.equal(*weights), name


def test_constants_are_kept_once():
    """Equal ones have one name, and their bytes are no key beside them."""
    writer = GraphWriter(quantised=False)
    weight = np.arange(1 << 20, dtype=np.float32)
    tracemalloc.start()
    first = writer.constant(weight)
    assert tracemalloc.get_traced_memory()[0] < weight.nbytes // 8
    tracemalloc.stop()
    assert writer.constant(weight.copy()) == first
    others = [weight.reshape(1024, 1024), weight.view(np.int32), weight[::-1], np.float32(3)]
    others += [np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32), np.array(True)]
    names = {writer.constant(other) for other in [weight, *others]}
    assert len(names) == 1 + len(others)
    assert {writer.constant(other) for other in [weight, *others]} == names


def test_qonnx():
    module = Blocks().eval()
    model = export(module, [example()], qonnx=True)
    quantised = [node for node in model.graph.node if node.op_type == "BipolarQuant"]
    assert len(quantised) == 4  # two activations and two weights
    assert all(node.domain == QONNX for node in quantised)
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        1,
        3,
        8,
        8,
    ]
    back = onnx_module(load(model))
    assert settle(back).dynamic
    with torch.no_grad():
        torch.testing.assert_close(back(images()), module(images()), atol=1e-5, rtol=1e-5)


def test_what_is_written_is_read_as_the_same_network():
    """Once through the front end and written again, the constants are the same bytes."""
    first = export(Blocks().eval(), [example()])
    again = export(onnx_module(load(first)), [example()])

    def constants(model):
        arrays = [numpy_helper.to_array(each) for each in model.graph.initializer]
        return sorted((a.dtype.str, a.size, a.tobytes()) for a in arrays if a.size > 10)

    assert constants(first) == constants(again)


class Operators(nn.Module):
    """One operator after the other."""

    def forward(self, x):
        a = x.permute(0, 2, 3, 1).contiguous().transpose(1, 2).reshape(x.shape[0], -1)
        b = torch.cat([x[:, :1], x[:, 1:]], 1).clamp(-1, 1).abs().sqrt().flatten(1)
        c = F.pad(x, (1, 0, 0, 2), value=0.5)[:, :, 2:, 1:].amax((2, 3))
        d = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False).sum((2, 3), keepdim=True)
        e = F.adaptive_avg_pool2d(F.silu(x), 2).mean(1).unsqueeze(1) + d
        f = (x > 0).float() - (x.round() == 1).float() + torch.where(x < 0, x, 2.0)
        g = F.softmax(x, -1) * torch.maximum(x, -x) / (x * x + 1)
        h = F.layer_norm(x.select(2, 1), [8]) + F.leaky_relu(x[:, :, 0], 0.2) - F.elu(x[:, :, 1])
        i = torch.rsqrt(x.pow(2) + 1).sub(x, alpha=2).argmax(1).float() + F.relu6(x).sum(1)
        j = F.hardsigmoid(x) + F.hardswish(x) + torch.sigmoid(x) + torch.tanh(x).exp()
        k = F.conv2d(x, x.new_ones(6, 1, 3, 3), padding="same", groups=3, dilation=2).sum(1)
        parts = [a, b, c, d, e, f, g, h, i, j, k]
        return torch.cat([part.flatten(1) for part in parts], 1)


def test_operators():
    module = Operators().eval()
    model = export(module, [example()])
    expected = module(images()).numpy()
    found = by_runtime(model, {model.graph.input[0].name: images().numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


class Parameters(nn.Module):
    """A function of the input and of parameters of several shapes."""

    def __init__(self, function):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.function = function
        for name, shape in SHAPES.items():
            values = torch.rand(shape, generator=generator) + 0.1
            self.register_parameter(name, nn.Parameter(values))

    def forward(self, x):
        return self.function(x, self)


SHAPES = {"number": (), "one": (1,), "row": (8,), "channels": (3,), "image": (3, 1, 1)}
SHAPES |= {"square": (8, 8)}
TENSORS = {
    "clamp": lambda x, p: torch.clamp(x, -p.image, p.image),
    "clamp from below": lambda x, p: torch.clamp(x, min=p.image),
    "clamp from above": lambda x, p: torch.clamp(x, max=p.row),
    "clamp of crossed bounds": lambda x, p: torch.clamp(x, p.row, -p.row),
    "clamp of a number": lambda x, p: torch.clamp(x, -p.number, p.number),
    "clamp of one": lambda x, p: torch.clamp(x, -p.one, p.one),
    "clamp that broadcasts": lambda x, p: torch.clamp(x[:, :1], -p.image, p.image),
    "clamp of the input's": lambda x, p: torch.clamp(x, max=x.mean((2, 3), keepdim=True)),
    "clamp_min": lambda x, p: torch.clamp_min(x, p.image),
    "clamp_max": lambda x, p: torch.clamp_max(x, p.image),
    "clamp of integers": lambda x, p: (x * 3).int().clamp(-2, 2),
    "clamp of integers by tensors": lambda x, p: (x * 3).int().clamp(-p.row, p.row),
    "add": lambda x, p: torch.add(x, p.image, alpha=2.5),
    "sub": lambda x, p: torch.sub(x, p.row, alpha=0.5) - p.one,
    "pow": lambda x, p: x.abs().pow(p.image) + 2.0**x,
    "maximum": lambda x, p: torch.maximum(x, p.row).minimum(p.image * 2),
    "where": lambda x, p: torch.where(p.image > 0.5, x, p.row),
    "prelu": lambda x, p: F.prelu(x, p.channels) + F.prelu(x, p.one),
    "prelu of rows": lambda x, p: F.prelu(x[:, :, 0, 0], p.channels),
    "linear of a vector": lambda x, p: F.linear(x, p.row, p.number),
    "linear": lambda x, p: F.linear(x, p.square, p.row),
    "linear of a matrix": lambda x, p: F.linear(x[:, 0, 0], p.square, p.row),
    "matmul of a vector": lambda x, p: x @ p.row,
    "addmm": lambda x, p: torch.addmm(p.row, x[:, 0, 0], p.square, beta=0.5, alpha=2.0),
    "addmm of one": lambda x, p: torch.addmm(p.one, x[:, 0, 0], p.square),
    "batch_norm": lambda x, p: F.batch_norm(x, p.channels, p.channels, None, p.channels),
    "layer_norm": lambda x, p: F.layer_norm(x, [8], p.row, None),
    "elu": lambda x, p: F.elu(x, 0.7) + F.selu(x),
    "comparisons": lambda x, p: (x > p.image).float() + ((x * 3).int() >= p.row).float(),
    "comparisons of booleans": lambda x, p: ((x > 0) >= (p.image > 0.5)).float(),
    "comparisons of bytes": lambda x, p: (x.abs().to(torch.uint8) > 1).float(),
    "roundings of integers": lambda x, p: (x * 3).int().round() + (x * 3).int().floor(),
    "pad": lambda x, p: F.pad(x, (1, 2), value=2) * p.image,
    "infinite": lambda x, p: torch.log(F.relu(x)) * p.image,
}


@pytest.mark.parametrize("name", TENSORS)
def test_parameters_that_are_tensors(name):
    """What ONNX wants as one number, or as another type, is written with other operators."""
    module = Parameters(TENSORS[name]).eval()
    model = export(module, [example()])
    with torch.no_grad():
        expected = module(images()).numpy()
    (found,) = by_runtime(model, {model.graph.input[0].name: images().numpy()})
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_bounds_that_are_numbers_stay_one_operator():
    model = export(Parameters(TENSORS["clamp of a number"]).eval(), [example()])
    assert [node.op_type for node in model.graph.node] == ["Clip"]


REFUSED = {
    "integers, bit by bit": (lambda x, p: (x * 9).int() & 3, "bitwise_and of integers"),
    "celu": (lambda x, p: torch.ops.aten.elu(x, 0.7, 1.3, 2.0), "exponents are scaled"),
    "signs of booleans": (lambda x, p: (x > 0).sign(), "of booleans is not written"),
    "half": (lambda x, p: x.half().float(), "computes in float16, but only float32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_onnx_has_no_word_for_is_refused(name):
    function, message = REFUSED[name]
    with pytest.raises(ImportModelError, match=message):
        export(Parameters(function).eval(), [example()])


def test_what_a_reader_says_is_one_sentence(monkeypatch, capfd):
    """ONNX Runtime's errors, and those of other readers, are the project's."""

    def clip(writer, node):
        x, low, high = node.args
        bounds = [writer.tensor(bound, torch.float32) for bound in (low, high)]
        return writer.emit("Clip", writer.tensor(x, torch.float32), *bounds, at=node)

    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(RULES, "clamp", clip)
    with pytest.raises(ImportModelError, match=r"ONNX Runtime .* does not take the .* scalar") as e:
        export(Parameters(TENSORS["clamp"]).eval(), [example()])
    assert "\n" not in str(e.value)
    assert capfd.readouterr().err == ""


class Unknown(nn.Module):
    def forward(self, x):
        return torch.special.i0(x)


class NotConstant(nn.Module):
    def forward(self, x):
        return x.flatten() * 2


@pytest.mark.parametrize("module", [Unknown(), NotConstant()])
def test_what_cannot_be_written_is_refused(module):
    if isinstance(module, NotConstant):  # its output has no batch: the reader refuses it, not we
        model = export(module, [example()])
        with pytest.raises(ImportModelError):
            settle(onnx_module(load(model)))
        return
    with pytest.raises(ImportModelError, match="i0"):
        export(module, [example()])


@pytest.mark.parametrize("variant", ["baseline", "insta_plus"])
def test_our_networks(variant):
    """`export` compares the file with PyTorch itself, by both readers."""
    module = networks.create("resnet20", variant).eval()
    model = export(module, [torch.zeros(1, 3, 32, 32)])
    found = onnx_module(load(model))
    bits = [module.get_buffer(f"{name}.weight") for module in [found] for name in found.onnx_names]
    binary = sum(
        bool((w.flatten(1).abs() == w.flatten(1).abs()[:, :1]).all()) for w in bits if w.ndim == 4
    )
    assert binary == 18
    assert model.ByteSize() < 450_000


def test_command_line(tmp_path, capsys):
    path = tmp_path / "digits.onnx"
    assert export_command.main(["--checkpoint", "digits", "--onnx", str(path)]) == 0
    assert "0.3" in capsys.readouterr().out
    made = onnx_model.network(path)
    assert made.dynamic and made.classes is not None and len(made.classes) == 10
    assert made.preprocessing is not None and made.label == "digits"
    module = networks.create("resnet20", "insta", checkpoint="digits").eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(made.module(x), module(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "properties",
    [
        {"preprocessing": "{"},
        {"preprocessing": "[1]"},
        {"preprocessing": '{"mode": 1}'},
        {"classes": "3"},
    ],
    ids=json.dumps,
)
def test_properties_of_strangers_are_checked(properties, tmp_path):
    model = export(nn.ReLU(), [example()], properties=properties)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    from tvm_insta.errors import InstaError

    with pytest.raises(InstaError):
        onnx_model.network(tmp_path / "m.onnx")
