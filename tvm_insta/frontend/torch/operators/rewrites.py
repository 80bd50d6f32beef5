"""Rewrites of ATen operators into ATen operators that Relax has, one node at a time."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.inputs import HALVES
from tvm_insta.frontend.torch.graph import constant, is_tensor, name_of
from tvm_insta.frontend.torch.masked import masked_assignment
from tvm_insta.frontend.torch.operators.converter import bind
from tvm_insta.frontend.torch.operators.convolutions import (
    sequence_to_image,
    transposed_to_convolution,
)
from tvm_insta.frontend.torch.operators.insert import Inserter, replace
from tvm_insta.frontend.torch.operators.ordering import ORDERING
from tvm_insta.frontend.torch.operators.placing import PLACING
from tvm_insta.frontend.torch.operators.resampling import RESAMPLING

_aten = torch.ops.aten

_ASSERTIONS = frozenset(
    f"aten.{name}"
    for name in (
        "_assert_tensor_metadata.default _assert_async.default _assert_async.msg "
        "_assert_scalar.default sym_constrain_range.default sym_constrain_range_for_size.default"
    ).split()
)


def rewrite(module: fx.GraphModule) -> None:
    """Rewrite a graph in place, until nothing is left to do."""
    graph = module.graph
    for node in list(graph.nodes):
        name = name_of(node)
        if name in _ASSERTIONS:
            graph.erase_node(node)
    changed = True
    while changed:
        changed = False
        for node in list(graph.nodes):
            rule = _RULES.get(name_of(node))
            if rule is not None and node.users:
                changed = rule(node) or changed
        graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if name_of(node) in _BROADCASTING:
            _without_expansions(node)
    graph.eliminate_dead_code()
    module.recompile()


def _convolution(node: fx.Node) -> bool:
    bound = bind(node)
    if bound.value("input").ndim == 3:
        sequence_to_image(node)
    elif bound["transposed"]:
        transposed_to_convolution(node)
    else:
        return False
    return True


def _constant_indices(node: fx.Node) -> bool:
    """Reading by constant indices, several or negative ones too, is one index_select.

    The indexed dimensions are brought side by side, in front where PyTorch puts them there, and
    flattened; the indices into them are computed here.
    """
    given = bind(node).arguments
    source, indices = given["self"], given["indices"]
    used = {axis: index for axis, index in enumerate(indices) if index is not None}
    values = {axis: constant(index) for axis, index in used.items()}
    shape = source.meta["val"].shape
    if any(value is None or value.dtype == torch.bool for value in values.values()):
        return False
    if not all(isinstance(shape[axis], int) for axis in used):
        return False
    axes = list(used)
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    first = axes[0] if together else 0
    insert = Inserter(node)
    rest = [axis for axis in range(len(shape)) if axis not in used]
    order = rest[:first] + axes + rest[first:]
    moved = source
    if order != list(range(len(shape))):
        moved = insert.call(_aten.permute.default, source, order)
    sizes = insert.sizes(moved)
    joint = 1
    flat = torch.zeros((), dtype=torch.int64)
    for axis in axes:
        size = int(shape[axis])
        value = values[axis]
        assert value is not None
        flat = flat * size + value.long().where(value >= 0, value.long() + size)
        joint *= size
    before, behind = sizes[:first], sizes[first + len(axes) :]
    if len(axes) > 1:
        moved = insert.view(moved, [*before, joint, *behind])
    chosen = insert.call(
        _aten.index_select.default, moved, first, insert.constant(flat.reshape(-1), "index")
    )
    if flat.ndim != 1:
        chosen = insert.view(chosen, [*before, *flat.shape, *behind])
    replace(node, chosen)
    return True


def _sorted_boundaries(node: fx.Node) -> bool:
    """``bucketize`` counts the boundaries below (``right``: at or below) each number."""
    given = bind(node).arguments
    x, boundaries = given["self"], given["boundaries"]
    right, short = given["right"], given["out_int32"]
    insert = Inserter(node)
    compare = _aten.lt.Tensor if right else _aten.le.Tensor
    wide = insert.call(_aten.unsqueeze.default, x, -1)
    above = insert.call(_aten.logical_not.default, insert.call(compare, wide, boundaries))
    count = insert.call(_aten.sum.dim_IntList, above, [-1])
    if short:
        count = insert.call(_aten.to.dtype, count, torch.int32)
    replace(node, count)
    return True


def _instance_norm(node: fx.Node) -> bool:
    """Instance norm comes as batch norm of ``[1, N * C, ...]``, with parameters repeated N times.

    Of the image itself it is a group norm with one channel per group, or, with stored statistics,
    a batch norm.
    """
    given = bind(node).arguments
    source = given["input"]
    if name_of(source) not in ("aten.view.default", "aten.reshape.default"):
        return False
    image = source.args[0]
    joined, shape = source.meta["val"].shape, image.meta["val"].shape
    if len(joined) != len(shape) or joined[0] != 1 or joined[2:] != shape[2:]:
        return False
    names = ("weight", "bias", "running_mean", "running_var")
    found = {name: _unrepeated(given[name]) for name in names if given.get(name) is not None}
    if any(value is None for value in found.values()):
        return False
    insert = Inserter(node)
    weight, bias = found.get("weight"), found.get("bias")
    if "running_mean" in found:
        made = insert.call(
            _aten._native_batch_norm_legit_no_training.default,
            image, weight, bias, found["running_mean"], found["running_var"],
            given["momentum"], given["eps"],
        )  # fmt: skip
    elif "no_stats" in name_of(node):
        channels, pixels = int(shape[1]), math.prod(int(size) for size in shape[2:])
        made = insert.call(
            _aten.native_group_norm.default,
            image, weight, bias, insert.size(image, 0), channels, pixels, channels, given["eps"],
        )  # fmt: skip
    else:
        return False
    result = insert.view(insert.call(operator.getitem, made, 0), insert.sizes(source))
    for user in list(node.users):
        if user.args[1] == 0:
            replace(user, result)
    return True


def _rounding(node: fx.Node) -> bool:
    """A cast to half precision and back is one operator, which needs no such type."""
    half: Any = node.args[0]
    if name_of(half) != "aten._to_copy.default" or node.meta["val"].dtype != torch.float32:
        return False
    dtype, source = half.meta["val"].dtype, half.args[0]
    if dtype not in HALVES:
        return False
    insert = Inserter(node)
    to = str(dtype).removeprefix("torch.")
    replace(node, insert.call(torch.ops.tvm_insta.round_half.default, source, to))
    return True


def _unrepeated(node: Any) -> fx.Node | None:
    """The vector that is repeated, None where it is no repetition."""
    if name_of(node) != "aten.repeat.default" or len(node.args[1]) != 1:
        return None
    return node.args[0]  # type: ignore[no-any-return]


_RULES: dict[str, Callable[[fx.Node], bool]] = {
    "aten.convolution.default": _convolution,
    "aten.index_put.default": masked_assignment,
    "aten.index.Tensor": _constant_indices,
    "aten._native_batch_norm_legit.no_stats": _instance_norm,
    "aten._native_batch_norm_legit_no_training.default": _instance_norm,
    "aten._to_copy.default": _rounding,
    "aten.bucketize.Tensor": _sorted_boundaries,
    **ORDERING,
    **PLACING,
    **RESAMPLING,
}

_BROADCASTING = frozenset(
    f"aten.{name}"
    for name in (
        "add.Tensor sub.Tensor mul.Tensor div.Tensor div.Tensor_mode maximum.default "
        "minimum.default where.self eq.Tensor ne.Tensor lt.Tensor le.Tensor gt.Tensor ge.Tensor "
        "logical_and.default logical_or.default logical_xor.default bitwise_and.Tensor "
        "bitwise_or.Tensor bitwise_xor.Tensor pow.Tensor_Tensor atan2.default fmod.Tensor "
        "remainder.Tensor clamp.Tensor copysign.Tensor fmax.default fmin.default"
    ).split()
)


def _without_expansions(node: fx.Node) -> None:
    """An element-wise operator broadcasts by itself: it reads what was expanded.

    An expansion to the batch's size would be a kernel of its own, and in TVM 0.27's VM form one
    that reads the batch before any tensor has told it.
    """
    for source in list(node.all_input_nodes):
        if name_of(source) != "aten.expand.default":
            continue
        smaller: Any = source.args[0]
        others = [each for each in node.all_input_nodes if is_tensor(each) and each is not source]
        wanted = list(node.meta["val"].shape)
        if (
            smaller.meta["val"].dtype == source.meta["val"].dtype
            and _broadcast([*others, smaller]) == wanted
        ):
            node.replace_input_with(source, smaller)


def _broadcast(nodes: list[fx.Node]) -> list[Any] | None:
    rank = max(node.meta["val"].ndim for node in nodes)
    result: list[Any] = [1] * rank
    for node in nodes:
        shape = [1] * (rank - node.meta["val"].ndim) + list(node.meta["val"].shape)
        for axis, size in enumerate(shape):
            if not (isinstance(size, int) and size == 1):
                result[axis] = size
    return result
