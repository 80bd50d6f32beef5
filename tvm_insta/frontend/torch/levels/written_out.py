"""Products that are written as a broadcast and a sum: ``(a[:, None] * w).sum(-1)``.

Where a tensor ``a`` has two values, every element-wise function of it and of constants is linear in
it:

    f(a, w) = f(lo, w) + (a - lo) * V        V = (f(hi, w) - f(lo, w)) / (hi - lo)

so that ``(a == w).sum(-1)``, which XNOR and a count of bits are, ``(a - w).abs().sum(-1)`` and the
like are products with V, too, plus one number per output. With more values of ``a``, the function
is linear if it is for each of them, as a product is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import SOURCE, base_name, buffer, call, constant, shape_of
from tvm_insta.frontend.torch.levels.codes import Codes, codes_of
from tvm_insta.frontend.torch.levels.compared import compared
from tvm_insta.frontend.torch.levels.elementwise import is_elementwise, tensor_operands
from tvm_insta.frontend.torch.levels.staircase import Chain, chains
from tvm_insta.frontend.torch.levels.values import Levels
from tvm_insta.frontend.torch.levels.weights import Planes, decompose

_aten = torch.ops.aten
_LINEAR = 1e-6
"""Largest distance of a function from the linear one, relative to its largest value: products with
levels such as 1 / 3 are rounded to float32."""


@dataclass(frozen=True)
class _Product:
    """A sum of an element-wise function as a product.

    Attributes:
        data: the tensor of few values, of the rank of what is summed.
        weight: ``[O, K]`` float32.
        bias: ``[O]`` float32.
        batch: dimensions of `data` that stay.
        out: dimensions of what is summed that only the constants have, in which O is counted.
        summed: dimensions that are summed, in which K is counted.
    """

    data: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor
    batch: tuple[int, ...]
    out: tuple[int, ...]
    summed: tuple[int, ...]


def product_of_sum(node: fx.Node, levels: Levels) -> fx.Node | None:
    """Write a sum or mean that is a product of packed numbers as ``aten.linear``, in place.

    Returns:
        The product; None, and nothing done, where the node is none, or where it is not packed: of
        other values, with real weights, or few enough that the sum has few values itself.
    """
    if base_name(node) not in ("aten.sum", "aten.mean") or levels.nearby(node) is not None:
        return None
    source: Any = node.args[0]
    if not is_elementwise(source) or node.meta["val"].dtype not in (torch.float32, torch.int64):
        return None
    for chain in chains(source):
        values = levels.values(chain.root)
        if values is None:
            continue
        product = _product(chain, values, _summed(node, len(shape_of(source))))
        if product is not None and _is_packed(product, levels):
            return _write(node, chain, product)
    return None


def _summed(node: fx.Node, rank: int) -> tuple[int, ...]:
    given: Any = node.args[1] if len(node.args) > 1 else None
    dims = [given] if isinstance(given, int) else given or []
    return tuple(sorted(dim % rank for dim in dims))


def _product(chain: Chain, values: tuple[float, ...], summed: tuple[int, ...]) -> _Product | None:
    data = chain.root
    inner: Any = data.args[0] if base_name(data) == "aten.expand" else None
    if inner is not None and len(shape_of(inner)) == len(shape_of(data)):
        data = inner
    own, constants, whole = shape_of(data), chain.constants_shape(), shape_of(chain.nodes[-1])
    kept = [dim for dim in range(len(whole)) if dim not in summed]
    batch = tuple(dim for dim in kept if constants[dim] == 1)
    out = tuple(dim for dim in kept if constants[dim] != 1)
    sizes = [whole[dim] for dim in (*out, *summed)]
    if not all(isinstance(size, int) for size in sizes) or not 1 <= len(batch) <= 3:
        return None
    if any(own[dim] != 1 for dim in out) or any(own[dim] != whole[dim] for dim in summed):
        return None
    if len(values) < 2 or all(constants[dim] == 1 for dim in summed):  # a sum of `data` alone
        return None
    line = _linear(chain, values, constants)
    if line is None:
        return None
    full = [whole[dim] if dim in summed else size for dim, size in enumerate(constants)]
    rows = math.prod(whole[dim] for dim in out)
    slope, offset = (
        part.expand(full).permute(*out, *summed, *batch).reshape(rows, -1) for part in line
    )
    bias = offset.sum(1)
    bias = torch.where(bias.abs() > _LINEAR * slope.abs().sum(1), bias, 0.0)
    return _Product(data, slope.float(), bias.float(), batch, out, summed)


def _linear(
    chain: Chain, values: tuple[float, ...], shape: list[int]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Slope and offset of the function that a chain is of its tensor, None if it is not linear."""
    dtype = chain.root.meta["val"].dtype
    results = [chain(torch.full(shape, value).to(dtype)).double() for value in values]
    low, high = values[0], values[-1]
    slope = (results[-1] - results[0]) / (high - low)
    offset = results[0] - low * slope
    allowed = _LINEAR * max(float(result.abs().max()) for result in results)
    pairs = zip(values, results, strict=True)
    close = all(bool(((v * slope + offset - r).abs() <= allowed).all()) for v, r in pairs)
    return (slope, offset) if close else None  # NaN and infinity are close to nothing


def _is_packed(product: _Product, levels: Levels) -> bool:
    """Whether the layer of a product is one of packed bits."""
    if not isinstance(decompose(product.weight), Planes):
        return False
    if product.data.meta["val"].dtype == torch.bool:
        return True
    steps = compared(product.data, levels)
    return steps is not None and isinstance(codes_of(steps), Codes)


def _write(node: fx.Node, chain: Chain, product: _Product) -> fx.Node:
    """The layer, between moves of the dimensions of its input and of its result."""
    batch, out, summed = product.batch, product.out, product.summed
    data, whole = product.data, shape_of(chain.nodes[-1])
    if data.meta["val"].dtype != torch.float32:
        data = call(node, _aten._to_copy.default, (data,), kwargs={"dtype": torch.float32})
    data = _permuted(node, data, [*batch, *out, *summed])
    if len(whole) > len(batch) + 1:
        data = call(node, _aten.flatten.using_ints, (data, len(batch)))
    operands = [each for member in chain.nodes for each in tensor_operands(member)]
    constants = [each for each in operands if constant(each) is not None]
    origin = max(constants, key=lambda each: each.meta["val"].numel())
    operands = [data, buffer(node, product.weight, "weight", source=origin)]
    if bool(product.bias.any()):
        operands.append(buffer(node, product.bias, "bias"))
    layer = result = call(node, _aten.linear.default, operands)
    if not out:
        result = call(node, _aten.select.int, (result, -1, 0))
    elif len(out) > 1:
        result = call(node, _aten.unflatten.int, (result, -1, [whole[dim] for dim in out]))
    kept = sorted((*batch, *out))
    result = _permuted(node, result, [(*batch, *out).index(dim) for dim in kept])
    if len(shape_of(node)) == len(whole):  # dimensions of one element are left of the sums
        for dim in summed:
            result = call(node, _aten.unsqueeze.default, (result, dim))
    if base_name(node) == "aten.mean":
        result = call(node, _aten.div.Tensor, (result, math.prod(whole[dim] for dim in summed)))
    if node.meta["val"].dtype != torch.float32:
        kind = {"dtype": node.meta["val"].dtype}
        result = call(node, _aten._to_copy.default, (result,), kwargs=kind)
    result.meta[SOURCE] = node.meta.get(SOURCE, "")
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)
    return layer


def _permuted(before: fx.Node, data: fx.Node, order: list[int]) -> fx.Node:
    """A tensor with its dimensions in another order."""
    if order == sorted(order):
        return data
    return call(before, _aten.permute.default, (data, order))
