"""How an operator becomes Relax: a table of converters, and what a converter sees of a call.

TVM 0.27's own converters are not used. Compared with PyTorch over their attributes they drop
``alpha``, ``divisor_override``, ``output_padding`` and running statistics, give integers where
PyTorch gives floats, read negative indices out of bounds and raise TypeErrors;
tests/frontend/torch/operators/test_tvm_importer.py holds the list, and fails when TVM mends one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from tvm import relax

from tvm_insta.errors import ImportModelError, InstaError
from tvm_insta.frontend.torch.operators.refusal import refusal, where
from tvm_insta.frontend.torch.operators.symbols import shape_in_relax

Expr = Any  # Relax expressions carry no type information for mypy
Importer = Any  # of `to_relax`: `env` maps fx nodes to Relax expressions, `block_builder` is TVM's
Convert = Callable[[fx.Node, Importer], Any]
Check = Callable[["Bound"], "tuple[str, str] | None"]
"""What of a call cannot be compiled and what to write instead, or None."""

_ALLOWED_TYPES = (
    torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8,
    torch.bool,
)  # fmt: skip


@dataclass(frozen=True)
class Bound:
    """A call whose arguments are bound to the names of the operator's schema.

    Attributes:
        node: the call.
        arguments: by name, defaults included; tensors and symbolic integers are fx nodes.
    """

    node: fx.Node
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def value(self, name: str) -> torch.Tensor:
        """The fake tensor of a tensor argument."""
        return fake(self.arguments[name])


@dataclass(frozen=True)
class Converter:
    """One row of the table.

    Attributes:
        convert: emits the Relax of a call.
        check: see `Check`; None where every combination of attributes is right.
    """

    convert: Callable[[Call], Any]
    check: Check | None


TABLE: dict[str, Converter] = {}
"""By the operator's full name, ``"aten.add.Tensor"``. What is not in it is refused."""


def converts(
    *names: str, check: Check | None = None
) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Register the converter of the operators ``aten.<name>``."""

    def register(convert: Callable[[Call], Any]) -> Callable[[Call], Any]:
        for name in names:
            assert f"aten.{name}" not in TABLE, f"aten.{name} has two converters"
            TABLE[f"aten.{name}"] = Converter(convert, check)
        return convert

    return register


class Call:
    """A call under conversion: arguments as Relax expressions, the type of the result."""

    def __init__(self, node: fx.Node, importer: Importer) -> None:
        self.node = node
        self.importer = importer
        self.bound = bind(node)

    def __getitem__(self, name: str) -> Any:
        """An argument: Relax for tensors, ints and expressions for sizes, else as it is."""
        return self._resolve(self.bound[name])

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.importer.env[value]
        if isinstance(value, (list, tuple)):
            return [self._resolve(item) for item in value]
        return value

    def emit(self, expr: Expr) -> Expr:
        """Bind an expression to a variable."""
        return self.importer.block_builder.emit(expr)

    def fake(self, name: str) -> torch.Tensor:
        """The fake tensor of an argument: its dtype and shape as PyTorch has them."""
        return self.bound.value(name)

    @property
    def result(self) -> torch.Tensor:
        """The fake tensor of the result; the first one where there are several."""
        value = self.node.meta["val"]
        return value[0] if isinstance(value, (list, tuple)) else value  # type: ignore[no-any-return]

    @property
    def shape(self) -> list[Any]:
        """Shape of the result: ints, and Relax expressions of the batch."""
        return shape_in_relax(self.result.shape, self.node.graph, self.importer.env)

    def shape_of(self, name: str) -> list[Any]:
        """Shape of a tensor argument."""
        return shape_in_relax(self.fake(name).shape, self.node.graph, self.importer.env)

    def operand(self, name: str, dtype: torch.dtype) -> Expr:
        """A tensor or number in the given type."""
        value = self.bound[name]
        if isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor):
            return self.cast(self.importer.env[value], dtype, fake(value).dtype)
        return number(value, dtype)

    def cast(self, expr: Expr, dtype: torch.dtype, source: torch.dtype | None = None) -> Expr:
        """A tensor converted to a type; as it is where it has that type."""
        if source == dtype or str(expr.ty.dtype.dtype) == relax_type(dtype):
            return expr
        return self.emit(relax.op.astype(expr, relax_type(dtype)))

    def emit_as_result(self, expr: Expr) -> Expr:
        """Bind an expression, converted to the type of the result where it has another."""
        return self.cast(self.emit(expr), self.result.dtype)


def bind(node: fx.Node) -> Bound:
    """Bind the arguments of a call to the names of the operator's schema."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    arguments: dict[str, Any] = {}
    for position, argument in enumerate(target._schema.arguments):
        if position < len(node.args):
            arguments[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            arguments[argument.name] = node.kwargs[argument.name]
        else:
            arguments[argument.name] = argument.default_value
    return Bound(node, arguments)


def fake(node: Any) -> torch.Tensor:
    """The fake tensor that PyTorch computed for a node."""
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor), f"{node} is no tensor"
    return value


def relax_type(dtype: torch.dtype) -> str:
    """``torch.float32`` -> ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def known_type(dtype: torch.dtype) -> bool:
    """Whether a type can be compiled: no complex numbers, no quantised types."""
    return dtype in _ALLOWED_TYPES


def number(value: Any, dtype: torch.dtype) -> Expr:
    """A constant without dimensions, rounded and wrapped as PyTorch does."""
    tensor = torch.tensor(value).to(dtype)
    return relax.const(tensor.numpy(), relax_type(dtype))


def converters() -> dict[str, Convert]:
    """The table by the operators' full names."""
    return {name: _guarded(name, row.convert) for name, row in TABLE.items()}


def _guarded(name: str, convert: Callable[[Call], Any]) -> Convert:
    def run(node: fx.Node, importer: Importer) -> Any:
        try:
            return convert(Call(node, importer))
        except InstaError:
            raise
        except Exception as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise ImportModelError(
                f"{where(node)}uses {name}, which Relax does not take this way ({text[:200]}): "
                "write that line with other operators"
            ) from error

    return run


def need(bound: Bound, holds: bool, what: str, instead: str) -> None:
    """Raise the refusal of a call unless a condition holds."""
    if not holds:
        raise refusal(bound.node, what, instead)


def static(values: Sequence[Any]) -> bool:
    """Whether all sizes are known."""
    return all(isinstance(value, int) for value in values)
