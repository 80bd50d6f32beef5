"""ATen -> ONNX: functions of each element."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.write.aten import (
    arguments,
    dtype_of,
    rank_of,
    rule,
)
from tvm_insta.frontend.onnx.write.graph_writer import GraphWriter, value_of

_UNARY = {
    "abs": "Abs",
    "ceil": "Ceil",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "hardswish": "HardSwish",
    "log": "Log",
    "logical_not": "Not",
    "neg": "Neg",
    "reciprocal": "Reciprocal",
    "relu": "Relu",
    "round": "Round",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "softplus": "Softplus",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}


def _enter_unary(name: str, op: str) -> None:
    @rule(name, f"{name}_")
    def run(writer: GraphWriter, node: fx.Node) -> str:
        given = arguments(node)
        if given.get("decimals") or given.get("beta", 1) != 1:
            raise ImportModelError(f"{node.name}: only the plain form of {name} is written")
        dtype = dtype_of(node)
        x = writer.tensor(node.args[0], dtype)
        if not dtype.is_floating_point and op in ("Ceil", "Floor", "Round"):
            return x  # ONNX rounds floats only
        if dtype == torch.bool and op != "Not":
            raise ImportModelError(f"{node.name}: {name} of booleans is not written")
        return writer.emit(op, x, at=node)


for _name, _op in _UNARY.items():
    _enter_unary(_name, _op)

_BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "pow": "Pow",
    "logical_and": "And",
    "bitwise_and": "And",
    "logical_or": "Or",
    "bitwise_or": "Or",
}
_COMPARE = {
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
}


def _enter_binary(name: str, op: str) -> None:
    @rule(name, f"{name}_")
    def run(writer: GraphWriter, node: fx.Node) -> str:
        given = arguments(node)
        left, right = node.args[:2]
        if given.get("rounding_mode") is not None:
            raise ImportModelError(f"{node.name}: a division that rounds is not written")
        dtype = _compared(name, left, right) if name in _COMPARE else dtype_of(node)
        if name.startswith("bitwise") and dtype != torch.bool:
            raise ImportModelError(f"{node.name}: {name} of integers is not written")
        second = writer.tensor(right, dtype)
        if given.get("alpha", 1) != 1:
            second = writer.emit("Mul", second, writer.tensor(given["alpha"], dtype))
        return writer.emit(op, writer.tensor(left, dtype), second, at=node)


def _compared(name: str, left: Any, right: Any) -> torch.dtype:
    """The type in which operands are compared: ONNX orders no booleans, ONNX Runtime no bytes."""
    found = _common(left, right)
    if found in (torch.int8, torch.uint8) or (found == torch.bool and name != "eq"):
        return torch.int32
    return found


def _common(left: Any, right: Any) -> torch.dtype:
    kinds = [
        torch.empty(0, dtype=dtype_of(a)) if isinstance(a, fx.Node) else a for a in (left, right)
    ]
    return torch.result_type(*kinds)


for _name, _op in {**_BINARY, **_COMPARE}.items():
    _enter_binary(_name, _op)


@rule("where")
def _where(writer: GraphWriter, node: fx.Node) -> str:
    condition, x, y = node.args
    dtype = dtype_of(node)
    chosen = writer.tensor(condition, torch.bool)
    return writer.emit("Where", chosen, writer.tensor(x, dtype), writer.tensor(y, dtype), at=node)


@rule("square")
def _square(writer: GraphWriter, node: fx.Node) -> str:
    x = writer.tensor(node.args[0], dtype_of(node))
    return writer.emit("Mul", x, x, at=node)


@rule("rsqrt")
def _rsqrt(writer: GraphWriter, node: fx.Node) -> str:
    x = writer.tensor(node.args[0], dtype_of(node))
    return writer.emit("Reciprocal", writer.emit("Sqrt", x), at=node)


@rule("silu", "silu_")
def _silu(writer: GraphWriter, node: fx.Node) -> str:
    x = writer.tensor(node.args[0], dtype_of(node))
    return writer.emit("Mul", x, writer.emit("Sigmoid", x), at=node)


@rule("hardsigmoid", "hardsigmoid_")
def _hard_sigmoid(writer: GraphWriter, node: fx.Node) -> str:
    x = writer.tensor(node.args[0], dtype_of(node))
    return writer.emit("HardSigmoid", x, at=node, alpha=1 / 6, beta=0.5)


@rule("leaky_relu", "leaky_relu_")
def _leaky_relu(writer: GraphWriter, node: fx.Node) -> str:
    x = writer.tensor(node.args[0], dtype_of(node))
    slope = float(arguments(node)["negative_slope"])
    return writer.emit("LeakyRelu", x, at=node, alpha=slope)


@rule("elu", "elu_")
def _elu(writer: GraphWriter, node: fx.Node) -> str:
    x = writer.tensor(node.args[0], dtype_of(node))
    given = arguments(node)
    alpha, scale = float(given["alpha"]), float(given.get("scale", 1))
    if given.get("input_scale", 1) != 1:
        raise ImportModelError(f"{node.name}: an ELU whose exponents are scaled is not written")
    if scale != 1:
        return writer.emit("Selu", x, at=node, alpha=alpha, gamma=scale)
    return writer.emit("Elu", x, at=node, alpha=alpha)


@rule("clamp", "clamp_", "clamp_min", "clamp_max", "hardtanh", "hardtanh_", "relu6", "relu6_")
def _clamp(writer: GraphWriter, node: fx.Node) -> str:
    given, dtype = arguments(node), dtype_of(node)
    low = given.get("min", given.get("min_val"))
    high = given.get("max", given.get("max_val"))
    if "relu6" in str(node.target):
        low, high = 0.0, 6.0
    x = writer.tensor(node.args[0], dtype)
    if all(_number(bound) for bound in (low, high)):
        bounds = ["" if bound is None else writer.tensor(bound, dtype) for bound in (low, high)]
        return writer.emit("Clip", x, *bounds, at=node)
    for op, bound in (("Max", low), ("Min", high)):
        if bound is not None:
            x = writer.emit(op, x, writer.tensor(bound, dtype), at=node)
    return x


def _number(bound: Any) -> bool:
    """Whether a bound is none or one number: Clip takes no others, and broadcasts none."""
    return not isinstance(bound, fx.Node) or value_of(bound).ndim == 0


@rule("prelu", "_prelu_kernel")
def _prelu(writer: GraphWriter, node: fx.Node) -> str:
    x, slope = node.args
    assert isinstance(slope, fx.Node)
    value = value_of(slope)
    name = writer.tensor(slope, torch.float32)
    if value.ndim == 1 and value.numel() > 1:
        shape = [-1] + [1] * (rank_of(node) - 2)
        if slope.op == "get_attr":
            name = writer.constant(value.detach().reshape(shape).numpy(), f"{name}_slope")
        else:
            name = writer.emit("Reshape", name, writer.ints(*shape))
    return writer.emit("PRelu", writer.tensor(x, torch.float32), name, at=node)


@rule("to", "_to_copy", "type_as")
def _to(writer: GraphWriter, node: fx.Node) -> str:
    return writer.tensor(node.args[0], dtype_of(node))


@rule("alias", "clone", "contiguous", "detach", "dropout", "dropout_", "lift_fresh_copy", "detach_")
def _same(writer: GraphWriter, node: fx.Node) -> str:
    if arguments(node).get("train"):
        raise ImportModelError(f"{node.name}: dropout is in training mode")
    assert isinstance(node.args[0], fx.Node)
    return writer.name(node.args[0])
