"""The front end: constants are PyTorch's own, layers keep their names, bad modules are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tvm_insta
from tests.frontend.torch.graphs import Network
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import import_torch, trace_and_fold

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.latent = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 5))

    def forward(self, x):
        x = self.stem(x)
        weight = torch.where(self.latent >= 0, 1.0, -1.0) * self.latent.abs().mean((1, 2, 3), True)
        for _ in range(2):
            x = nn.functional.conv2d(torch.where(x >= 0, 1.0, -1.0), weight, padding=1)
        return self.head(x)


def test_layers_are_named_after_their_modules():
    imported = import_torch(Net(), [X], max_batch=4, dynamic=True)
    assert [layer.name for layer in imported.layers] == [
        "stem",
        "latent",
        "latent#2",
        "head.1",
    ]
    assert [layer.binary for layer in imported.layers] == [False, True, True, False]
    assert imported.input_names == ("x",)


def test_everything_constant_is_computed_by_pytorch():
    graph = trace_and_fold(Net(), [X], max_batch=4, dynamic=True)
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert names.count("aten.ge.Scalar") == 2  # the activations; those of the weights are gone
    assert not any("abs" in name or "mean" in name for name in names)
    with torch.no_grad():
        assert torch.equal(graph(X), Net()(X))


@pytest.mark.parametrize(("dynamic", "symbols"), [(True, 1), (False, 0)])
def test_batch_is_symbolic_or_fixed(dynamic, symbols):
    imported = import_torch(Net(), [X], max_batch=4, dynamic=dynamic)
    shape = imported.mod["main"].params[0].ty.shape.values
    assert sum(not hasattr(dim, "value") for dim in shape) == symbols


def test_example_of_one_image_still_gives_a_dynamic_batch():
    imported = import_torch(Net(), [X[:1]], max_batch=4, dynamic=True)
    assert not hasattr(imported.mod["main"].params[0].ty.shape.values[0], "value")


def test_training_mode_is_restored():
    module = Net().train()
    import_torch(module, [X], max_batch=2, dynamic=True)
    assert module.training


class DataDependent(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Complex(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real


def test_data_dependent_control_flow_is_refused():
    said = r"branches on a value that is computed from the input \(.*line \d+\)"
    with pytest.raises(ImportModelError, match=said):
        import_torch(DataDependent(), [X], max_batch=4, dynamic=True)


def test_unknown_operator_is_refused():
    with pytest.raises(
        ImportModelError, match=r"test_import_torch.py, line \d+\) uses fft_r2c, which cannot"
    ):
        import_torch(Complex(), [X], max_batch=4, dynamic=True)


@pytest.mark.parametrize("inputs", [[], [torch.zeros(3)], ["image.png"]])
def test_bad_example_inputs(inputs):
    with pytest.raises(ImportModelError, match="example input"):
        import_torch(Net(), inputs, max_batch=4, dynamic=True)


@pytest.mark.parametrize("dtype", [torch.float64])
@pytest.mark.parametrize("inside", [False, True])
def test_float_layers_of_other_types_are_refused_with_their_line(dtype, inside):
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3).to(dtype)

        def forward(self, x):
            return self.layer(x.to(dtype)).float()

    module, x = (Cast(), X) if inside else (nn.Conv2d(3, 4, 3).to(dtype), X.to(dtype))
    place = r"module 'layer' \(.*test_import_torch.py, line \d+\)" if inside else "the module"
    said = f"{place} uses convolution in {str(dtype).removeprefix('torch.')}.*call .float()"
    with pytest.raises(ImportModelError, match=said):
        import_torch(module, [x], max_batch=4, dynamic=True)


def plain_sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0.0, torch.ones_like(x), -torch.ones_like(x))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripted_functions_are_followed():
    graph = trace_and_fold(Network(torch.jit.script(plain_sign)), [X], max_batch=4, dynamic=True)
    assert torch.equal(graph(X), plain_sign(X))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, X)])
def test_torchscript_is_refused_by_name(make):
    whole, part = make(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.ReLU(), make(nn.Conv2d(3, 4, 3)))
    said = r"TorchScript module{} \(Conv2d\).*compile the module that torch.jit.script"
    with pytest.raises(ImportModelError, match=said.format("")):
        import_torch(whole, [X], max_batch=4, dynamic=True)
    with pytest.raises(ImportModelError, match=said.format(" at '1'")):
        import_torch(part, [X], max_batch=4, dynamic=True)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_parts_that_have_no_parameters_yet_are_refused_by_name():
    module = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ImportModelError, match="LazyConv2d at '0', whose parameters have no shape"):
        tvm_insta.build(module, X)
    module(X)
    assert tvm_insta.build(module, X).report.layers


class _TakesMore(Net):
    def forward(self, x, *more, mask=None, **options):
        assert not more and mask is None and not options
        return super().forward(x)


def test_what_forward_could_take_besides_is_left_out():
    imported = import_torch(_TakesMore(), [X], max_batch=4, dynamic=True)
    assert imported.input_names == ("x",)
    with torch.no_grad():
        graph = trace_and_fold(_TakesMore(), [X], max_batch=4, dynamic=True)
        assert torch.equal(graph(X[:1]), Net()(X[:1]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_torch_ao_converted_is_refused_by_its_path():
    network = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    dynamic = torch.ao.quantization.quantize_dynamic(network, {nn.Linear})
    with pytest.raises(ImportModelError, match=r"Linear at '0'.*converted.*the prepared module"):
        import_torch(dynamic, [torch.zeros(1, 8)], max_batch=4, dynamic=True)
