"""What layers in bf16 or int8 may change: which they are, and how their operands are rounded."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tvm_insta.errors import ArtefactError
from tvm_insta.frontend import export_graph
from tvm_insta.runtime.manifest import Layer
from tvm_insta.validate.graph import Graph, is_layer
from tvm_insta.validate.narrow import change_of, narrow_layers

INPUTS, OUTPUTS = 6, 4
# Rows and columns of very different sizes: scales of the wrong axis give other numbers.
WEIGHT = torch.randn(INPUTS, OUTPUTS, generator=torch.Generator().manual_seed(2))
WEIGHT *= torch.tensor([100.0, 1.0, 1.0, 0.1, 5.0, 1.0])[:, None]
WEIGHT *= torch.tensor([1.0, 30.0, 0.1, 2.0])
BIAS = torch.tensor([0.1, -0.2, 0.3, 0.4])


class Network(nn.Module):
    def __init__(self, product):
        super().__init__()
        self.product = product
        self.w = nn.Parameter(WEIGHT.clone())
        self.turned = nn.Parameter(WEIGHT.T.contiguous())
        self.kernel = nn.Parameter(WEIGHT.T.reshape(OUTPUTS, INPUTS, 1, 1).contiguous())
        self.bias = nn.Parameter(BIAS.clone())

    def forward(self, x):
        return self.product(self, x)


# All compute x @ w of rows x [N, C].
PRODUCTS = {
    "mm": lambda m, x: torch.mm(x, m.w),
    "matmul": lambda m, x: torch.matmul(x[:, None], m.w)[:, 0],
    "bmm": lambda m, x: torch.bmm(x[None], m.w[None])[0],
    "addmm": lambda m, x: torch.addmm(m.bias, x, m.w) - m.bias,
    "baddbmm": lambda m, x: torch.baddbmm(m.bias[None, None], x[None], m.w[None])[0] - m.bias,
    "linear": lambda m, x: nn.functional.linear(x, m.turned),
    "linear with a bias": lambda m, x: nn.functional.linear(x, m.turned, m.bias) - m.bias,
    "turned": lambda m, x: torch.mm(x, m.turned.t()),
    "on the left": lambda m, x: torch.mm(m.turned, x.t()).t(),
    "convolution": lambda m, x: nn.functional.conv2d(x[:, :, None, None], m.kernel)[:, :, 0, 0],
    "transposed convolution": lambda m, x: nn.functional.conv_transpose2d(
        x[:, :, None, None], m.w[:, :, None, None]
    )[:, :, 0, 0],
}


def graph_of(product, rows=3):
    # A fixed batch: with any, `bmm` of a constant is a product of two computed tensors.
    x = torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(1)).double().float()
    return Graph(export_graph(Network(product), [x], max_batch=rows, dynamic=False)), x


def quantised(value, dim):
    """Int8 codes of the whole tensor, or with a scale of each output channel."""
    largest = value.abs().max() if dim is None else value.abs().amax(dim, keepdim=True)
    return (value * 127 / largest).round() * largest / 127


@pytest.mark.parametrize("name", PRODUCTS)
def test_scales_are_those_of_output_channels_however_a_product_is_written(name):
    graph, x = graph_of(PRODUCTS[name])
    values = graph.run([x])
    nodes = graph.slice(graph.output, ())
    kinds = {node: "int8" for node in nodes if is_layer(node)}
    assert len(kinds) == 1
    (changed,) = change_of(graph, values, graph.output, nodes, kinds)
    expected = quantised(x, None) @ quantised(WEIGHT, 0)
    # Float32 sums of six products of up to 1e4, in another order; the bias comes and goes.
    torch.testing.assert_close(changed, expected, rtol=1e-5, atol=1e-3)
    assert (changed - values[graph.output][0]).abs().max() > 0.1  # and it is a change


@pytest.mark.parametrize("name", PRODUCTS)
def test_bfloat16_rounds_both_factors(name):
    graph, x = graph_of(PRODUCTS[name])
    nodes = graph.slice(graph.output, ())
    kinds = {node: "bf16" for node in nodes if is_layer(node)}
    (changed,) = change_of(graph, graph.run([x]), graph.output, nodes, kinds)
    expected = x.bfloat16().float() @ WEIGHT.bfloat16().float()
    torch.testing.assert_close(changed, expected, rtol=1e-5, atol=1e-3)


def manifest_of(*layers, stem="int8"):
    return SimpleNamespace(layers=layers, options={"stem": stem})


LAYER = Layer("w", "dense", "float", (1, OUTPUTS), 24, notes=("computed in int8",))


def test_the_entry_says_it_and_no_note():
    graph, _ = graph_of(PRODUCTS["mm"])
    (node,) = [node for node in graph.nodes if is_layer(node)]
    said = dataclasses.replace(LAYER, notes=("in another language",), compute_dtype="int8")
    assert narrow_layers(graph, manifest_of(said)) == {node: "int8"}
    assert narrow_layers(graph, manifest_of(dataclasses.replace(said, compute_dtype="fp32"))) == {}
    assert narrow_layers(graph, manifest_of(LAYER, stem="fp32")) == {}


def test_a_manifest_that_does_not_say_it_is_not_judged():
    """With the tolerance of float32 a right artefact would be called invalid."""
    graph, _ = graph_of(PRODUCTS["mm"])
    with pytest.raises(ArtefactError, match=r"does not say in which numbers .* compile the model"):
        narrow_layers(graph, manifest_of(LAYER))
    binary = dataclasses.replace(LAYER, kind="binary")
    assert narrow_layers(graph, manifest_of(binary)) == {}
