"""Operators that compute each element from one element of each operand."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import base_name, constant, is_tensor, shape_of

ELEMENTWISE = frozenset(
    f"aten.{name}"
    for name in (
        "abs add addcmul addcdiv bitwise_and bitwise_not bitwise_or bitwise_xor ceil clamp "
        "clamp_max clamp_min copysign div elu eq erf exp floor floor_divide fmod frac ge gelu gt "
        "hardsigmoid "
        "hardswish hardtanh heaviside isinf isnan le leaky_relu log logical_and logical_not "
        "logical_or logical_xor lt maximum minimum mul ne neg pow reciprocal relu remainder round "
        "rsqrt rsub sgn sigmoid sign signbit silu softplus sqrt square sub tanh trunc where "
        "_to_copy masked_fill lerp hardshrink softshrink threshold bucketize searchsorted"
    ).split()
)

ROUNDED_ONCE = frozenset(
    f"aten.{name}"
    for name in (
        "abs add bitwise_and bitwise_not bitwise_or bitwise_xor ceil clamp clamp_max clamp_min div "
        "eq floor ge gt hardtanh heaviside isinf isnan le leaky_relu logical_and logical_not "
        "logical_or logical_xor lt maximum minimum mul ne neg relu round rsub sign sgn sub trunc "
        "where _to_copy masked_fill hardsigmoid threshold bucketize searchsorted"
    ).split()
)
"""Those whose every step is rounded to nearest, so that all implementations of them agree and a
composition of monotone ones is monotone. tanh, exp and the like are approximations of their own."""


def is_elementwise(node: Any) -> bool:
    """Whether a node computes each element from one element of each operand."""
    return base_name(node) in ELEMENTWISE and _looks_up_in_one_row(node)


def _looks_up_in_one_row(node: fx.Node) -> bool:
    """False for a search in rows of boundaries, in computed ones, or by a permutation of them."""
    row = boundaries(node)
    if row is None:
        return True
    value = constant(row)
    return value is not None and value.ndim == 1 and node.kwargs.get("sorter") is None


def boundaries(node: fx.Node) -> Any:
    """The numbers among which ``bucketize`` and ``searchsorted`` look elements up; None for others.

    They do not broadcast: each element is compared with all of them.
    """
    name = base_name(node)
    at = {"aten.bucketize": 1, "aten.searchsorted": 0}.get(name)
    return None if at is None else node.args[at]


def tensor_operands(node: fx.Node) -> list[fx.Node]:
    """The tensors that an element-wise call reads, without repetition."""
    return [source for source in node.all_input_nodes if is_tensor(source)]


def variable_operands(node: fx.Node) -> list[fx.Node]:
    """Those tensor operands that are no constants."""
    return [source for source in tensor_operands(node) if constant(source) is None]


def same_shape(a: fx.Node, b: fx.Node) -> bool:
    """Whether two tensors have the same shape, symbolic batch included."""
    return shape_of(a) == shape_of(b)


def evaluate(node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
    """Execute one call by PyTorch itself.

    Args:
        node: an element-wise call.
        known: the values of its variable operands; constants are read from the graph.
    """

    def value(operand: fx.Node) -> Any:
        return known[operand] if operand in known else constant(operand)

    assert callable(node.target)
    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    with torch.no_grad():
        result = node.target(*args, **kwargs)
    assert isinstance(result, torch.Tensor)
    return result
