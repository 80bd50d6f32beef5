"""Operators are declared once: arguments, attributes and their checks.

An `Operator` makes calls (it is the builder, in Python and as `R.insta.<name>` in TVMScript),
infers their type and legalises them; all three follow from its `Argument`s and from a subclass of
`Attributes`. What only the operator knows is two functions: the type of the result, and its TE.

    @dataclass(frozen=True, kw_only=True)
    class Repeat(Attributes):
        times: int = integer(low=1)

    repeat = Operator("repeat", [Argument("data", "float32", 4)], Repeat, type_of, te_repeat)

Attributes live in a `DictAttrs` node that always holds every attribute of the operator, defaults
included: what is printed is the whole meaning. They are checked in type inference, so that a call
read from a script is checked like one that Python made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field
from typing import Any, Generic, TypeVar

from tvm import relax, te, tirx

from ._common import (
    OPAQUE,
    Dim,
    dims,
    expect_known,
    fail,
    make_call,
    primfunc,
    read_choice,
    read_integer,
    read_integers,
    register,
)


@dataclass(frozen=True)
class _Kind:
    """How one attribute is written into a call, and read from it with its checks."""

    write: Callable[[Any], Any]
    read: Callable[[relax.Call, str], Any]


def _attribute(kind: _Kind, default: Any) -> Any:
    return field(default=default, metadata={"kind": kind})


def _as_given(value: Any) -> Any:
    """What is no integer, say, has to be seen by the check."""
    return value


def integer(*, low: int, high: int | None = None, default: Any = MISSING) -> Any:
    """An integer in low..high."""
    kind = _Kind(_as_given, lambda call, name: read_integer(call, name, low, high))
    return _attribute(kind, default)


def flag(*, default: Any = MISSING) -> Any:
    """A bool, which scripts show as 0 or 1."""
    read = _Kind(int, lambda call, name: bool(read_integer(call, name, 0, 1)))
    return _attribute(read, default)


def integers(count: int, *, low: int, default: Any = MISSING) -> Any:
    """A list of ``count`` integers, each at least ``low``."""
    kind = _Kind(list, lambda call, name: tuple(read_integers(call, name, count, low)))
    return _attribute(kind, default)


def different(*, low: int, high: int, default: Any = MISSING) -> Any:
    """One or more different integers in low..high."""

    def read(call: relax.Call, name: str) -> tuple[int, ...]:
        values = list(call.attrs[name])
        good = all(isinstance(value, int) and low <= value <= high for value in values)
        if not values or not good or len(set(values)) != len(values):
            fail(
                call, f"{name} is {values}; pass one or more different integers from {low}..{high}"
            )
        return tuple(values)

    return _attribute(_Kind(list, read), default)


def choice(allowed: Sequence[str], *, default: Any = MISSING) -> Any:
    """One of some strings."""
    return _attribute(
        _Kind(_as_given, lambda call, name: read_choice(call, name, allowed)), default
    )


def number(*, above: float | None = None, default: Any = MISSING) -> Any:
    """A float, above a limit if there is one."""

    def read(call: relax.Call, name: str) -> float:
        value = float(call.attrs[name])
        if above is not None and not value > above:
            fail(call, f"{name} is {value}; pass a number above {above:g}")
        return value

    return _attribute(_Kind(float, read), default)


def text(*, default: Any = MISSING) -> Any:
    """Any string."""
    return _attribute(_Kind(_as_given, lambda call, name: str(call.attrs[name])), default)


def names() -> Any:
    """A list of names, empty if left out."""

    def read(call: relax.Call, name: str) -> tuple[str, ...]:
        return tuple(str(value) for value in call.attrs[name])

    return _attribute(_Kind(list, read), ())


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Base of the attributes of an operator; a subclass has a field for each."""

    @classmethod
    def fields(cls) -> dict[str, _Kind]:
        """Name and kind of each."""
        return {each.name: each.metadata["kind"] for each in dataclasses.fields(cls)}

    def written(self) -> dict[str, Any]:
        """As `DictAttrs` take them."""
        return {name: kind.write(getattr(self, name)) for name, kind in self.fields().items()}


@dataclass(frozen=True, kw_only=True)
class LayerAttributes(Attributes):
    """Of operators that compute layers of the network.

    Attributes:
        layers: names of the layers that are computed.
    """

    layers: Sequence[str] = names()


@dataclass(frozen=True)
class Argument:
    """A tensor argument.

    Attributes:
        name: for messages.
        dtypes: of its elements: the one, or those that are allowed.
        ranks: numbers of dimensions that are allowed.
        known: axes whose extents have to be known.
    """

    name: str
    dtypes: str | Sequence[str]
    ranks: int | Sequence[int]
    known: Sequence[int] = ()

    def read(self, call: relax.Call, index: int) -> list[Dim]:
        """The shape of argument ``index``, checked."""
        ranks = (self.ranks,) if isinstance(self.ranks, int) else tuple(self.ranks)
        dtypes = (self.dtypes,) if isinstance(self.dtypes, str) else tuple(self.dtypes)
        return dims(call, index, self.name, ranks, dtypes)


OPERATORS: dict[str, Operator[Any]] = {}
"""Every operator, by its full name, "relax.insta.X"."""

A = TypeVar("A", bound=Attributes)


TypeOf = Callable[..., relax.TensorType]
"""Takes a call, its attributes and its shapes; raises `OpError` where they do not fit."""


class Operator(Generic[A]):
    """One `relax.insta.*` operator, registered with TVM and TVMScript when it is made.

    Args:
        name: without "relax.insta.".
        arguments: in order; more arguments than that are for ``type_of`` to check.
        attributes: the class that declares them.
        type_of: takes the call, its attributes and the shapes of ``arguments``.
        te: takes the tensors and the attributes, which it need not if there are none.
        pattern: TVM's operator pattern of the kernel.
        finish: says of the kernel what TE cannot.
        legalise: in place of ``te``, for what TVM has operators or kernels of its own.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[Argument],
        attributes: type[A],
        type_of: TypeOf,
        te: Callable[..., te.Tensor] | None = None,
        *,
        pattern: int = OPAQUE,
        finish: Callable[[tirx.PrimFunc], tirx.PrimFunc] | None = None,
        legalise: Callable[[relax.BlockBuilder, relax.Call, A], relax.Expr] | None = None,
    ) -> None:
        self.name = self.__name__ = name
        self.arguments, self.attributes = tuple(arguments), attributes
        self._type_of, self._te, self._own = type_of, te, legalise
        self._pattern, self._finish = pattern, finish
        OPERATORS[f"relax.insta.{name}"] = self
        register(name, self, self.infer, self.legalise)

    def __call__(self, *args: relax.Expr, **attributes: Any) -> relax.Call:
        """Build a call; it gets its type, and is checked, by the block builder or the parser.

        Raises:
            TypeError: an attribute is unknown, or one without a default is missing.
        """
        return make_call(self.name, args, **self.attributes(**attributes).written())

    def with_attributes(self, args: Sequence[relax.Expr], attributes: A) -> relax.Call:
        """As `__call__`, with the attributes as an object."""
        return make_call(self.name, args, **attributes.written())

    def of(self, call: relax.Call) -> A:
        """The attributes of a call, checked.

        Raises:
            OpError: one is missing, unknown or not allowed.
        """
        kinds = self.attributes.fields()
        given = [] if call.attrs is None else [str(key) for key in call.attrs.keys()]
        for name in kinds:
            if name not in given:
                fail(call, f"{name} is missing among the attributes; pass it")
        for name in given:
            if name not in kinds:
                fail(call, f"{name} is no attribute; pass one of {', '.join(kinds) or 'none'}")
        return self.attributes(**{name: kind.read(call, name) for name, kind in kinds.items()})

    def infer(self, call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
        """TVM's FInferType."""
        shapes = [each.read(call, index) for index, each in enumerate(self.arguments)]
        attributes = self.of(call)
        for each, shape in zip(self.arguments, shapes, strict=True):
            expect_known(call, each.name, shape, [at % len(shape) for at in each.known])
        return self._type_of(call, attributes, *shapes)

    def legalise(self, builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        """TVM's FLegalize."""
        attributes = self.of(call)
        if self._own is not None:
            return self._own(builder, call, attributes)
        compute, more = self._te, (attributes,) if self.attributes.fields() else ()
        assert compute is not None, "an operator has a TE function or a legalisation of its own"

        def kernel(*tensors: te.Tensor) -> te.Tensor:
            return compute(*tensors, *more)

        return primfunc(builder, self.name, self._pattern, kernel, call.args, self._finish)
