"""The table of operators: one function each, whose signature says what the operator takes.

Positional parameters are the inputs; one with a default is optional, ``*rest`` takes any number.
Keyword parameters are the attributes, with ONNX's defaults and, as ``Literal``, the allowed words.
The annotation of an input says how it is handed over:

========================  =========================================================================
``Tensor``                a tensor
``Tensor | float``        a tensor, or a number where the file holds a constant of one element
``Ints``                  integers that are known when the graph is traced; dimensions of the batch
                          may be symbolic
``Constant``              values of the file that depend on no input
``Constant | Ints``       either of them
``Tensor | Codes``        a tensor, or the integers of a `QuantizeLinear` in front of it
========================  =========================================================================

A keyword parameter ``context: Context`` receives versions and what else is known of the node.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.graph import STANDARD, Array, Initialiser, Node
from tvm_insta.frontend.onnx.limits import check_shape

Ints = tuple[int, ...]
"""Known integers; those that come from the batch are `torch.SymInt`."""
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Constant:
    """A value that depends on no input.

    Attributes:
        array: the values.
        element: ONNX element type of the file, which may have fewer bits than the array.
        tensor: the same values where the graph is executed: a buffer of the module.
        doubles: see `Initialiser`.
    """

    array: Array
    element: int
    tensor: Tensor
    doubles: Array | None = None

    @property
    def exact(self) -> Array:
        """The values for the arithmetic of shapes."""
        return self.array if self.doubles is None else self.doubles


@dataclass(frozen=True)
class Codes:
    """The result of a `QuantizeLinear`: integers, held in float32 until something needs bytes.

    Attributes:
        values: whole numbers, float32.
        element: ONNX element type they stand for.
    """

    values: Tensor
    element: int


Result = Tensor | Codes | Constant | tuple[Tensor, ...]
"""What an operator gives."""


@dataclass(frozen=True)
class Context:
    """What an operator may know besides its inputs and attributes.

    Attributes:
        opset: version of the operator's domain.
        outputs: how many results are read; the names of the others are empty.
        batch: ``(batch of the file, batch of this run)`` where a file that was written for one
            batch runs with another; None where shapes are to be taken as they are.
    """

    opset: int
    outputs: int = 1
    batch: tuple[int, int] | None = None


@dataclass(frozen=True)
class Parameter:
    """An input: its name, how it is handed over, and whether it may be absent."""

    name: str
    kind: str
    optional: bool


@dataclass(frozen=True)
class Operator:
    """An entry of the table.

    Attributes:
        name: operator.
        run: its function.
        inputs: positional parameters.
        variadic: kind of all further inputs, None where there are none.
        attributes: type and default by name; ``inspect.Parameter.empty`` for those that must be
            given.
        wants_context: whether ``run`` takes ``context``.
        layer: whether it has a name in the report: convolutions and products.
        ignored: attributes without meaning in inference.
    """

    name: str
    run: Callable[..., Any]
    inputs: tuple[Parameter, ...]
    variadic: str | None
    attributes: Mapping[str, tuple[Any, Any]]
    wants_context: bool
    layer: bool
    ignored: frozenset[str] = field(default_factory=frozenset)


_TABLE: dict[tuple[str, str], Operator] = {}


def operator(
    *names: str,
    domains: Sequence[str] = ("",),
    layer: bool = False,
    ignored: Sequence[str] = (),
) -> Callable[[Function], Function]:
    """Enter a function into the table under ``names``."""

    def enter(function: Function) -> Function:
        for name in names:
            entry = _entry(name, function, layer, frozenset(ignored))
            for domain in domains:
                assert (domain, name) not in _TABLE, name
                _TABLE[domain, name] = entry
        return function

    return enter


def find(domain: str, name: str) -> Operator | None:
    """The entry of an operator, None if it is not known."""
    return _TABLE.get(("" if domain in STANDARD else domain, name))


def domains() -> frozenset[str]:
    """All domains that operators are known of."""
    return frozenset(domain for domain, _ in _TABLE)


def names(domain: str = "") -> list[str]:
    """The operators known of a domain, sorted."""
    return sorted(name for each, name in _TABLE if each == domain)


def _entry(
    name: str, function: Callable[..., Any], layer: bool, ignored: frozenset[str]
) -> Operator:
    hints = get_type_hints(function)
    inputs, attributes, variadic, context = [], {}, None, False
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            variadic = _kind(hint)
        elif parameter.name == "context":
            context = True
        elif parameter.kind is parameter.KEYWORD_ONLY:
            attributes[parameter.name] = (hint, parameter.default)
        else:
            optional = parameter.default is not parameter.empty
            inputs.append(Parameter(parameter.name, _kind(hint), optional))
    return Operator(name, function, tuple(inputs), variadic, attributes, context, layer, ignored)


def _kind(hint: Any) -> str:
    parts = set(_alternatives(hint)) - {type(None)}
    if parts == {Tensor}:
        return "tensor"
    if parts == {Constant, Ints}:
        return "shape"
    for special, kind in ((float, "number"), (Codes, "codes"), (Constant, "constant")):
        if special in parts:
            return kind
    assert parts == {Ints}, hint
    return "ints"


def _alternatives(hint: Any) -> tuple[Any, ...]:
    union = get_origin(hint) in (Union, types.UnionType)
    return get_args(hint) if union else (hint,)


def parse_attributes(entry: Operator, node: Node) -> dict[str, Any]:
    """The attributes of a node as keyword arguments of its function.

    Raises:
        ImportModelError: an attribute that is unknown, missing, of another type, or a word that is
            not allowed.
    """
    found: dict[str, Any] = {}
    for name, value in node.attributes.items():
        if name in entry.ignored:
            continue
        if name not in entry.attributes:
            raise ImportModelError(
                f"{node} has the attribute {name!r}, which is not taken: known are "
                f"{', '.join(sorted(entry.attributes)) or 'none'}"
            )
        hint, _ = entry.attributes[name]
        found[name] = _converted(hint, value, f"{node}: attribute {name!r}")
    for name, (_, default) in entry.attributes.items():
        if name not in found and default is inspect.Parameter.empty:
            raise ImportModelError(f"{node} lacks its attribute {name!r}")
    return found


def _converted(hint: Any, value: Any, what: str) -> Any:
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            if value in get_args(kind):
                return value
            allowed = ", ".join(map(repr, get_args(kind)))
            raise ImportModelError(f"{what} is {value!r}, but only {allowed} are taken")
        if kind is bool and value in (0, 1) and isinstance(value, int):
            return bool(value)
        if kind in (int, float, str) and isinstance(value, kind):
            return value
        if kind is Initialiser and isinstance(value, Initialiser):
            return value
        if get_origin(kind) is tuple and isinstance(value, tuple):
            item = get_args(kind)[0]
            if all(isinstance(each, item) for each in value):
                return value
            if not value:
                return ()
    text = typing.cast(str, getattr(hint, "__name__", str(hint)))
    raise ImportModelError(f"{what} is {value!r}, but must be of type {text}")


def require_float(tensor: Tensor, what: str) -> Tensor:
    """``tensor`` itself; it must hold floating-point numbers.

    Raises:
        ImportModelError: it holds integers or booleans.
    """
    if not tensor.is_floating_point():
        raise ImportModelError(
            f"{what} holds {tensor.dtype}, but floating-point numbers are needed"
        )
    return tensor


def check_result_shape(sizes: Sequence[int]) -> None:
    """Do nothing if a result may have these dimensions; symbols of the batch count as 1.

    Raises:
        ImportModelError: a negative or absurd dimension, or too many elements.
    """
    check_shape([size if isinstance(size, int) else 1 for size in sizes], "its result")


def axis_of(axis: int, rank: int, extra: int = 0) -> int:
    """``axis`` counted from the front.

    Raises:
        ImportModelError: there is no such axis.
    """
    if not -(rank + extra) <= axis < rank + extra:
        raise ImportModelError(f"axis {axis} does not exist in a tensor of {rank} dimensions")
    return axis % (rank + extra) if rank + extra else 0
