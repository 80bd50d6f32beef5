"""A graph of ATen operators in fewer spellings, before anything is recognised in it.

- Copies are dropped: ``clone``, ``detach``, ``contiguous``, casts to the same type. So are other
  strides of the same elements, which pooling to one pixel gives tensors with channels last.
- A tensor of one number (``ones_like(x)``, ``full_like(x, c)``, ``x.new_ones``) and an expanded
  constant (``b.expand_as(x)``) become the number or the constant itself where an element-wise
  operator broadcasts it anyway.
- What is computed twice is computed once; constants that are equal are one.
- A product with factors, and what is added to it, are operators of their own.
- A product with a constant on its left is one with it on its right, of transposed tensors; one with
  a vector is a layer of one output.
- Circular padding is a concatenation of slices.
- An assignment under a mask (``y[x >= 0] = 1``) is a choice between two tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import (
    SOURCE,
    base_name,
    buffer,
    call,
    constant,
    is_tensor,
    matrix,
    shape_of,
)
from tvm_insta.frontend.torch.levels.elementwise import boundaries, is_elementwise
from tvm_insta.frontend.torch.masked import masked_assignment

_COPIES = frozenset(
    f"aten.{name}" for name in "clone alias detach lift_fresh_copy contiguous positive".split()
)
_ASSERTIONS = frozenset(
    {"aten._assert_tensor_metadata", "aten._assert_async", "aten._assert_scalar"}
)
_SIGNS = frozenset({"aten.sign", "aten.sgn"})
_SMALL = 1 << 12
"""Elements of the largest constants that are compared with each other."""
_EXPANDED = frozenset({"aten.expand", "aten.expand_copy"})


def normalise(module: fx.GraphModule, *, sign_of_zero: str = "exact") -> None:
    """Rewrite a folded graph in place.

    Args:
        module: after `fold_constants`.
        sign_of_zero: "exact" keeps ``sign(0) = 0``; "+1" takes the sign of 0 for +1.
    """
    graph = module.graph
    _without_strides(graph)  # before copies are dropped, whose strides are others
    for node in list(graph.nodes):
        if base_name(node) in _ASSERTIONS:
            graph.erase_node(node)
            continue
        if base_name(node) == "aten.copy":
            _cast_in_front(node)
        if (original := _copied(node)) is not None:
            node.replace_all_uses_with(original)
            graph.erase_node(node)
        elif (rewrite := _REWRITES.get(base_name(node))) is not None:
            rewrite(node)
        elif base_name(node) in _SIGNS and sign_of_zero == "+1":
            _two_signs(node)
        elif base_name(node) == "aten.view":
            node.target = torch.ops.aten.reshape.default  # a view needs the strides of the copy
    _share_equal(graph)
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.index_put.default):
        masked_assignment(node)  # equal masks are one by now
    uniform: dict[fx.Node, torch.Tensor] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        number = _uniform_value(node, uniform)
        if number is not None:
            uniform[node] = number
        elif is_elementwise(node):
            _without_expansions(node, uniform)
    graph.eliminate_dead_code()
    module.recompile()


def _without_strides(graph: fx.Graph) -> None:
    """Drop ``as_strided`` where each element of the result is that of the same index.

    Strides of dimensions of one element say nothing.
    """
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.as_strided.default):
        source = node.args[0]
        before, after = source.meta["val"], node.meta["val"]
        if _in_memory(before) == _in_memory(after):
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _in_memory(tensor: torch.Tensor) -> list[tuple[str, str]]:
    """Where an element lies: sizes, strides and offset, as text, since the batch is a symbol."""
    sizes = [str(size) for size in tensor.shape]
    strides = [str(stride) for stride in tensor.stride()]
    placed = [(n, "any" if n == "1" else s) for n, s in zip(sizes, strides, strict=True)]
    return [*placed, ("offset", str(tensor.storage_offset()))]


def _two_signs(node: fx.Node) -> None:
    """``sign(x)`` -> ``where(x >= 0, 1, -1)``."""
    (x,) = node.args
    holds = call(node, torch.ops.aten.ge.Scalar, (x, 0))
    high, low = (buffer(node, torch.tensor(value), "sign") for value in (1.0, -1.0))
    chosen = call(
        node, torch.ops.aten.where.self, (holds, high, low), source=node.meta.get(SOURCE, "")
    )
    node.replace_all_uses_with(chosen)
    node.graph.erase_node(node)


def _share_equal(graph: fx.Graph) -> None:
    """Replace a call by an earlier one of the same operator and operands, and equal constants."""
    known: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        key = _identity(node)
        earlier = node if key is None else known.setdefault(key, node)
        if earlier is not node:
            node.replace_all_uses_with(earlier)
            graph.erase_node(node)


def _identity(node: fx.Node) -> Any:
    """What two nodes of the same value have in common; None for a node that is like no other."""
    value = constant(node)
    if value is not None and value.numel() <= _SMALL:
        value = value.cpu().contiguous()
        return (
            value.dtype,
            tuple(value.shape),
            value.reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
    if node.op == "call_function" and _is_pure(node):
        return repr((str(node.target), node.args, sorted(node.kwargs.items())))
    return None


def _is_pure(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    return torch.Tag.nondeterministic_seeded not in node.target.tags


def _copied(node: fx.Node) -> fx.Node | None:
    """The tensor whose value and type a node has; ``y.copy_(x)`` is x where the shapes agree."""
    name = base_name(node)
    if name not in _COPIES and name not in ("aten._to_copy", "aten.copy"):
        return None
    source = node.args[1 if name == "aten.copy" else 0]
    if not is_tensor(source):
        return None
    assert isinstance(source, fx.Node)
    if name not in _COPIES and source.meta["val"].dtype != node.meta["val"].dtype:
        return None
    if name == "aten.copy" and shape_of(source) != shape_of(node):
        return None
    return source


def _cast_in_front(node: fx.Node) -> None:
    """``y.copy_(x)`` of another type -> ``y.copy_(x.to(y.dtype))``, so that a copy only moves."""
    target, source = node.args[:2]
    dtype = node.meta["val"].dtype
    if is_tensor(source) and source.meta["val"].dtype != dtype:  # type: ignore[union-attr]
        cast = call(
            node,
            torch.ops.aten._to_copy.default,
            (source,),
            {"dtype": dtype},
            source=node.meta.get(SOURCE, ""),
        )
        node.args = (target, cast)


def _constant_on_the_right(node: fx.Node) -> None:
    """``W @ x`` -> ``(x^T @ W^T)^T``: a layer of the last dimension of ``x^T``."""
    left, right = node.args[:2]
    assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
    transpose, rank = torch.ops.aten.permute.default, len(shape_of(right))
    vector = constant(right)
    if vector is not None and vector.ndim == 1 and len(shape_of(left)) > 1:
        _by_a_vector(node, left, buffer(node, vector[None], "matrix", source=right))
        return
    weight = matrix(left, rank)
    if weight is None or constant(right) is not None:
        return
    order = [*range(rank - 2), rank - 1, rank - 2]
    kernel = buffer(node, weight, "matrix", source=left)
    product = call(
        node, torch.ops.aten.linear.default, (call(node, transpose, (right, order)), kernel)
    )
    result = call(node, transpose, (product, order), source=node.meta.get(SOURCE, ""))
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)


def _by_a_vector(node: fx.Node, left: fx.Node, row: fx.Node) -> None:
    """``x @ w`` of a vector w: a layer of one output."""
    product = call(node, torch.ops.aten.linear.default, (left, row))
    source = node.meta.get(SOURCE, "")
    result = call(node, torch.ops.aten.select.int, (product, -1, 0), source=source)
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)


def _product_and_sum(node: fx.Node) -> None:
    """``beta * b + alpha * (x @ W)`` as operators of their own, but where it is ``b + x @ W``."""
    added, left, right = node.args
    factors = {name: node.kwargs.get(name, 1) for name in ("alpha", "beta")}
    if set(factors.values()) == {1} and constant(right) is not None:
        return
    times = torch.ops.aten.mul.Tensor
    product = call(node, torch.ops.aten.mm.default, (left, right))
    if factors["alpha"] != 1:
        product = call(node, times, (product, factors["alpha"]))
    if factors["beta"] != 0:  # 0 leaves NaN out
        if factors["beta"] != 1:
            added = call(node, times, (added, factors["beta"]))
        product = call(node, torch.ops.aten.add.Tensor, (product, added))
    product.meta[SOURCE] = node.meta.get(SOURCE, "")
    node.replace_all_uses_with(product)
    node.graph.erase_node(node)


def _circular_padding(node: fx.Node) -> None:
    """Pads come in pairs, last dimension first; negative ones cut."""
    given: Any = node.args
    result, pads = given
    axis = len(shape_of(node))
    for front, back in zip(pads[::2], pads[1::2], strict=True):
        axis -= 1
        result = _slice(node, result, axis, max(-front, 0), shape_of(result)[axis] - max(-back, 0))
        size = shape_of(result)[axis]
        parts = [result]
        if front > 0:
            parts.insert(0, _slice(node, result, axis, size - front, size))
        if back > 0:
            parts.append(_slice(node, result, axis, 0, back))
        if len(parts) > 1:
            result = call(node, torch.ops.aten.cat.default, (parts, axis))
    result.meta[SOURCE] = node.meta.get(SOURCE, "")
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)


_REWRITES: dict[str, Callable[[fx.Node], None]] = {
    "aten.addmm": _product_and_sum,
    "aten.matmul": _constant_on_the_right,
    "aten.bmm": _constant_on_the_right,
    "aten.mm": _constant_on_the_right,
    "aten._pad_circular": _circular_padding,
}


def _slice(before: fx.Node, source: fx.Node, axis: int, first: int, last: int) -> fx.Node:
    if first == 0 and last == shape_of(source)[axis]:
        return source
    return call(before, torch.ops.aten.slice.Tensor, (source, axis, first, last))


def _uniform_value(node: fx.Node, uniform: dict[fx.Node, torch.Tensor]) -> torch.Tensor | None:
    """The number that all elements of a tensor are, as a tensor without dimensions."""
    if not is_tensor(node):
        return None
    dtype = node.meta["val"].dtype
    if base_name(node) in ("aten.full", "aten.full_like"):
        number = node.args[1]
        return torch.tensor(number, dtype=dtype) if isinstance(number, (int, float)) else None
    known_operator = is_elementwise(node) or base_name(node) in _EXPANDED
    if not known_operator or boundaries(node) is not None:  # which must keep their dimension
        return None
    known = _uniform_operands(node, uniform)
    if not known:
        return None
    if base_name(node) in _EXPANDED:
        return next(iter(known.values()))
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: known[source])
    with torch.no_grad():
        result = node.target(*args, **kwargs)  # type: ignore[operator]
    return result.reshape(()).to(dtype)  # type: ignore[no-any-return]


def _uniform_operands(
    node: fx.Node, uniform: dict[fx.Node, torch.Tensor]
) -> dict[fx.Node, torch.Tensor]:
    """The numbers that the tensors a node reads consist of; empty where one is not uniform."""
    known: dict[fx.Node, torch.Tensor] = {}
    for source in node.all_input_nodes:
        if not is_tensor(source):
            continue
        value = constant(source)
        if source in uniform:
            known[source] = uniform[source]
        elif value is not None and value.numel() == 1:
            known[source] = value.reshape(())
        else:
            return {}
    return known


def _without_expansions(node: fx.Node, uniform: dict[fx.Node, torch.Tensor]) -> None:
    """Read numbers and expanded tensors as they are, if the result stays the same."""
    whole = [s for s in node.all_input_nodes if is_tensor(s) and s not in uniform]
    for source in node.all_input_nodes:
        if source in uniform:
            if any(shape_of(each) == shape_of(node) for each in whole):
                _replace(node, source, buffer(node, uniform[source], "number"))
        elif base_name(source) in _EXPANDED:
            smaller = source.args[0]
            others = [each for each in whole if each is not source]
            if any(shape_of(each) == shape_of(node) for each in others):
                _replace(node, source, smaller)


def _replace(node: fx.Node, old: fx.Node, new: Any) -> None:
    """Exchange an operand; undone where the type of the result would be another."""
    args, kwargs = node.args, node.kwargs
    node.replace_input_with(old, new)
    fake_args, fake_kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    mode = node.meta["val"].fake_mode
    with mode, torch.no_grad():
        result = node.target(*fake_args, **fake_kwargs)  # type: ignore[operator]
    same = result.dtype == node.meta["val"].dtype and list(result.shape) == shape_of(node)
    if not same:
        node.args, node.kwargs = args, kwargs
