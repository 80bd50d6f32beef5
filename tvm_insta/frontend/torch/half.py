"""Half precision: every number of bfloat16 or float16 becomes the float32 number that it is.

PyTorch computes an operator of half precision on a CPU in float32 and rounds its result once;
operators that only move numbers, or choose among them, round nothing. So a graph in half precision
is a graph in float32 with a rounding behind each operator that computes. The rounding is written as
PyTorch writes it, a cast to the type and back; `prepare` makes one operator of the two.

What is known of PyTorch 2.13, each by comparison (tests/frontend/torch/test_half.py):

- A Python number, a tensor without dimensions and an integer tensor are rounded to the type before
  they meet one of it; the second operand of a product or quotient, without dimensions, is not.
- ``x ** 3`` is two products in bfloat16, each rounded, and one in float16.
- Sums of convolutions, products and reductions are float32, in an order of PyTorch's own: there the
  rounding may go the other way, which the validator allows for (`validate/half.py`).

An operator that is not listed here is refused: PyTorch may compute it in half precision itself.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.inputs import HALVES
from tvm_insta.frontend.torch.graph import SOURCE, base_name, buffer, call, constant, types_of
from tvm_insta.frontend.torch.operators.refusal import IN_FLOAT32, refusal


def _names(text: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in text.split())


_CHOOSE = _names(
    "abs neg relu sign sgn maximum minimum fmax fmin where clamp clamp_min clamp_max hardtanh ceil "
    "floor round trunc masked_fill copysign"
)
"""Element-wise, their result is exact: numbers that were there, or rounded ones."""

_MOVE = _names(
    "view _unsafe_view reshape permute transpose t squeeze unsqueeze expand slice select cat stack "
    "split split_with_sizes unbind chunk constant_pad_nd reflection_pad1d reflection_pad2d "
    "replication_pad1d replication_pad2d _pad_circular max_pool2d_with_indices "
    "adaptive_max_pool2d max amax amin index index_select gather embedding flip repeat roll "
    "pixel_shuffle pixel_unshuffle upsample_nearest2d copy clone alias detach contiguous "
    "lift_fresh_copy full full_like ones_like zeros_like new_full new_ones new_zeros "
    "scalar_tensor empty_like index_put slice_scatter select_scatter tril triu as_strided take "
    "im2col sort topk sym_size"
)

_COMPUTE = _names(
    "add sub rsub mul div pow remainder fmod atan2 sqrt reciprocal exp exp2 expm1 log log2 "
    "log10 log1p sin cos tan asin acos atan sinh cosh asinh acosh atanh tanh sigmoid erf silu gelu "
    "elu leaky_relu hardswish hardsigmoid softplus prelu _prelu_kernel square addcmul lerp"
)
_LAYERS = _names(
    "convolution linear matmul mm bmm mv addmm baddbmm _native_batch_norm_legit_no_training "
    "native_layer_norm native_group_norm mean sum var std cumsum _softmax avg_pool2d "
    "_adaptive_avg_pool2d upsample_bilinear2d linalg_vector_norm"
)

_COMPARE = _names(
    "eq ne lt le gt ge isnan isinf signbit logical_not logical_and logical_or logical_xor argmax "
    "argmin any all _to_copy to"
)
"""Their results are not of half precision."""

_CASTS = _names("_to_copy to type_as")
_PROMOTING = _CHOOSE | _names(
    "add sub rsub mul div pow remainder fmod atan2 eq ne lt le gt ge full full_like new_full "
    "constant_pad_nd scalar_tensor prelu _prelu_kernel"
)
"""Operators whose other operands are rounded to the type, too."""

_LAST = "transpose in front of it and behind it, or cast to float32 in front of that line"
_SECOND_STAYS = _names("mul div")
_KNOWN = _CHOOSE | _MOVE | _COMPUTE | _LAYERS | _COMPARE | _CASTS


def widen_halves(module: fx.GraphModule) -> None:
    """Rewrite a graph with numbers of half precision into float32 and roundings, in place.

    Args:
        module: after `fold_constants`.

    Its inputs and outputs are float32, too.

    Raises:
        ImportModelError: an operator is not known in half precision.
    """
    halves: dict[fx.Node, torch.dtype] = {}
    for node in list(module.graph.nodes):
        if node.op == "placeholder":
            _widen_input(node, halves)
        elif node.op == "get_attr":
            _widen_constant(node, halves)
        elif base_name(node).startswith("aten._assert"):
            module.graph.erase_node(node)
        elif node.op == "call_function" and _touches(node, halves):
            _widen_call(node, halves)
    module.graph.eliminate_dead_code()
    module.recompile()


def _widen_input(node: fx.Node, halves: dict[fx.Node, torch.dtype]) -> None:
    """An artefact takes float32, and rounds it: numbers of half precision stay what they are."""
    for dtype in types_of(node):
        if dtype in HALVES:
            node.meta["val"] = _wide(node.meta["val"])
            _round_behind(node, dtype, halves)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _touches(node: fx.Node, halves: dict[fx.Node, torch.dtype]) -> bool:
    """Whether a call reads or gives numbers of half precision."""
    if any(source in halves for source in node.all_input_nodes):
        return True
    return any(dtype in HALVES for dtype in types_of(node))


def _widen_constant(node: fx.Node, halves: dict[fx.Node, torch.dtype]) -> None:
    value = constant(node)
    if value is None or value.dtype not in HALVES:
        return
    wide = buffer(node, value.float(), "wide", source=node)
    node.replace_all_uses_with(wide)
    halves[wide] = value.dtype


def _widen_call(node: fx.Node, halves: dict[fx.Node, torch.dtype]) -> None:
    if node.target is operator.getitem:
        _widen_item(node, halves)
        return
    name, before = base_name(node), types_of(node)
    given = [halves[source] for source in node.all_input_nodes if source in halves]
    half = next((dtype for dtype in before if dtype in HALVES), given[0] if given else None)
    assert half is not None
    if name not in _KNOWN or (name == "aten.div" and "rounding_mode" in node.kwargs):
        raise refusal(node, f"in {_short(half)}", IN_FLOAT32)
    if node.kwargs.get("alpha", 1) != 1:  # PyTorch's vectors and what is left of them differ
        raise refusal(node, f"with alpha in {_short(half)}", "multiply by it, then add")
    if name in _CASTS:
        _widen_cast(node, halves)
        return
    if name in _PROMOTING and _common(node, halves) in HALVES:
        _round_others(node, half, halves)
    if name == "aten.pow" and half == torch.bfloat16 and node.args[1] == 3:
        _round_square(node, half)
    node.args, node.kwargs = _in_float32(node.args), _in_float32(node.kwargs)
    if name == "aten._softmax":
        if node.args[1] not in (-1, node.meta["val"].ndim - 1):  # elsewhere sums are rounded, too
            raise refusal(node, f"over other dimensions than the last in {_short(half)}", _LAST)
        node.args = (*node.args[:2], False)
    node.meta["val"] = _wide(node.meta["val"])
    if any(dtype in HALVES for dtype in before):
        if isinstance(node.meta["val"], (list, tuple)):
            halves[node] = half  # until the items are read
        elif name in _COMPUTE | _LAYERS:
            _round_behind(node, half, halves)
        else:
            halves[node] = half


def _widen_item(node: fx.Node, halves: dict[fx.Node, torch.dtype]) -> None:
    """An item of several results: numbers that were moved, or the first that were computed."""
    (dtype,), source = types_of(node), node.args[0]
    if dtype not in HALVES:
        return
    node.meta["val"] = _wide(node.meta["val"])
    if base_name(source) in _LAYERS:
        _round_behind(node, dtype, halves)
    else:
        halves[node] = dtype


def _widen_cast(node: fx.Node, halves: dict[fx.Node, torch.dtype]) -> None:
    """To half precision: a rounding. From it to float32: nothing."""
    (dtype,), source = types_of(node), node.args[0]
    assert isinstance(source, fx.Node)
    if dtype not in HALVES:
        return  # the operand is float32 by now, of which the same cast gives the same
    if halves.get(source) == dtype:
        node.replace_all_uses_with(source)
        return
    made = _rounded(node, source, dtype)
    made.meta[SOURCE] = node.meta.get(SOURCE, "")
    node.replace_all_uses_with(made)
    halves[made] = dtype


def _round_behind(node: fx.Node, dtype: torch.dtype, halves: dict[fx.Node, torch.dtype]) -> None:
    """Let all readers of a node read it rounded."""
    users = list(node.users)
    made = _rounded(node.next, node, dtype)
    for each in (made, made.all_input_nodes[0]):
        each.meta = {**node.meta, "val": each.meta["val"], SOURCE: ""}
    made.meta[SOURCE], node.meta[SOURCE] = node.meta.get(SOURCE, ""), ""
    for user in users:
        user.replace_input_with(node, made)
    halves[made] = dtype


def _rounded(before: fx.Node, source: fx.Node, dtype: torch.dtype) -> fx.Node:
    """A tensor of any type, or a constant, rounded by way of float32, as PyTorch converts."""
    value = constant(source)
    if value is not None:
        return buffer(before, value.float().to(dtype).float(), "rounded", source=source)
    if source.meta["val"].dtype != torch.float32:
        source = _cast(before, source, torch.float32)
    return _cast(before, _cast(before, source, dtype), torch.float32)


def _cast(before: fx.Node, source: fx.Node, dtype: torch.dtype) -> fx.Node:
    return call(before, torch.ops.aten._to_copy.default, (source,), {"dtype": dtype})


def _common(node: fx.Node, halves: dict[fx.Node, torch.dtype]) -> torch.dtype:
    """The type in which operands meet, as PyTorch promotes them."""
    values: list[Any] = []
    for each in _operands(node):
        if isinstance(each, fx.Node):
            value = each.meta.get("val")
            if isinstance(value, torch.Tensor) and value.dtype != torch.bool:
                dtype = halves.get(each, value.dtype)
                values.append(torch.empty([1] * min(value.ndim, 1), dtype=dtype))
        elif isinstance(each, (int, float)) and not isinstance(each, bool):
            values.append(each)
    if not any(isinstance(each, torch.Tensor) for each in values):
        return types_of(node)[0]
    common = values[0]
    for each in values[1:]:
        common = torch.empty([1] * _rank(common, each), dtype=torch.result_type(common, each))
    return common.dtype if isinstance(common, torch.Tensor) else torch.float32


def _rank(*values: Any) -> int:
    return max(each.ndim if isinstance(each, torch.Tensor) else 0 for each in values)


def _operands(node: fx.Node) -> list[Any]:
    """What the result's elements are computed from: not dimensions or sizes."""
    name, given = base_name(node), list(node.args)
    if name in ("aten.full", "aten.full_like", "aten.new_full"):
        return given[1:2] if name != "aten.new_full" else given[2:3]
    if name == "aten.constant_pad_nd":
        return [given[0], *given[2:]]
    return given


def _round_others(node: fx.Node, dtype: torch.dtype, halves: dict[fx.Node, torch.dtype]) -> None:
    """Round operands of other types as PyTorch does when it makes them of one type."""
    others = {id(each) for each in _operands(node)}
    args = list(node.args)
    for at, each in enumerate(args):
        if id(each) not in others or each in halves:
            continue
        if at == 1 and base_name(node) in _SECOND_STAYS and not _has_dimensions(each):
            continue
        args[at] = _rounded_operand(node, each, dtype)
    node.args = tuple(args)
    for name in ("min", "max"):
        if name in node.kwargs:
            node.update_kwarg(name, _rounded_operand(node, node.kwargs[name], dtype))


def _has_dimensions(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.meta["val"].ndim > 0


def _rounded_operand(node: fx.Node, value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, fx.Node):
        tensor = value.meta.get("val")
        if isinstance(tensor, torch.Tensor) and tensor.dtype != torch.bool:
            return _rounded(node, value, dtype)
        return value
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        rounded = float(torch.tensor(value, dtype=torch.float64).float().to(dtype))
        return value if rounded == value else rounded
    return value


def _round_square(node: fx.Node, dtype: torch.dtype) -> None:
    """``x ** 3`` as ``(x * x) * x``, the square rounded."""
    x = node.args[0]
    assert isinstance(x, fx.Node)
    square = _rounded(node, call(node, torch.ops.aten.mul.Tensor, (x, x)), dtype)
    node.target, node.args = torch.ops.aten.mul.Tensor, (square, x)


def _in_float32(arguments: Any) -> Any:
    """Arguments with float32 in place of a type of half precision."""
    if isinstance(arguments, dict):
        return {name: _in_float32(value) for name, value in arguments.items()}
    if isinstance(arguments, tuple):
        return tuple(_in_float32(value) for value in arguments)
    return torch.float32 if arguments in HALVES else arguments


def _wide(value: Any) -> Any:
    """Fake values in float32 where they are of half precision."""
    if isinstance(value, (list, tuple)):
        return type(value)(_wide(each) for each in value)
    if isinstance(value, torch.Tensor) and value.dtype in HALVES:
        return value.to(torch.float32)
    return value
