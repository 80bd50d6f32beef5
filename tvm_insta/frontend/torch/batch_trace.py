"""Python's numbers made of the batch's size while torch.export runs forward.

An exported batch is a symbol. Python wants a number of it in ``math.sqrt(x.numel())``,
``float(x.shape[0])``, ``len(x)`` or ``if x.shape[0] > 1``, and torch.export then fixes the batch to
that of the example. Here the user's own code gets the number instead, without fixing anything:

- What is the same for every batch (``x.numel() / x.shape[0]``) is that number.
- Anything else is the number for the example's batch, and `Sizes.fixed` says so: whoever exports
  has to trace again with other batches, and compare; see `batch_numbers`.
- ``len(x)`` is ``x.shape[0]``, a symbol, wherever the user's code calls it: Python's own gives
  nothing but a number.
- Choices that differ are refused with the line, but for those where a batch of one stands alone:
  `Sizes.lone` tells that a single image has to be compared with PyTorch.

Code of PyTorch's sees the symbol as ever.
"""

from __future__ import annotations

import builtins
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.origin import is_foreign, running_line

_MOST = 4096
"""Up to here an expression is evaluated for every batch; above, for those beside its numbers."""

_LEN = builtins.len

_NUMPYS = [
    (kind, name)
    for kind in (torch.SymInt, torch.SymFloat)
    for name in ("sqrt", "log", "log2", "log10", "exp")
]
"""Methods that NumPy's functions call on numbers that it does not know."""


class Sizes:
    """What forward makes of the batch's size in one trace.

    Args:
        batch: of the example.
        max_batch: largest batch of the compiled module.

    Attributes:
        fixed: the line where a number that differs from batch to batch became one of the graph's
            constants; None where none did.
        lone: the line where a batch of one is told from larger ones; None where none is.
    """

    def __init__(self, batch: int, max_batch: int) -> None:
        self.batch, self.max_batch = batch, max_batch
        self.fixed: str | None = None
        self.lone: str | None = None
        self._known: dict[tuple[Any, Callable[[Any], Any]], dict[int, Any]] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Give numbers to the user's code, called inside."""
        changed = [
            (torch.SymInt, "__index__", self._number, int),
            (torch.SymInt, "__int__", self._number, int),
            (torch.SymInt, "__float__", self._number, float),
            (torch.SymFloat, "__float__", self._number, float),
            (torch.SymFloat, "__int__", self._number, int),
            (torch.SymInt, "__bool__", self._choice, bool),
            (torch.SymFloat, "__bool__", self._choice, bool),
            (torch.SymBool, "__bool__", self._choice, bool),
        ]
        before = [(kind, name, vars(kind).get(name)) for kind, name, _, _ in changed]
        for (kind, name, own, make), (_, _, old) in zip(changed, before, strict=True):
            setattr(kind, name, _of_the_user(own, make, old))
        for kind, name in _NUMPYS:
            setattr(kind, name, self._numpys(getattr(math, name)))
        builtins.len = _length
        try:
            yield
        finally:
            builtins.len = _LEN
            for kind, name, old in before:
                if old is None:
                    delattr(kind, name)
                else:
                    setattr(kind, name, old)
            for kind, name in _NUMPYS:
                delattr(kind, name)

    def length(self, size: Any) -> int:
        """``len`` of a tensor whose first dimension is a size."""
        found = self._number(size, int) if isinstance(size, torch.SymInt) else size
        return int(size) if found is None else int(found)

    def _number(self, size: Any, make: Callable[[Any], Any]) -> Any:
        values = self._values(size, make)
        if values is None:
            return None
        if self.fixed is None and len(set(values.values())) > 1:
            self.fixed = running_line()
        return values[self.batch]

    def _choice(self, size: Any, make: Callable[[Any], Any]) -> Any:
        values = self._values(size, make)
        if values is None:
            return None
        larger = {value for batch, value in values.items() if 1 < batch <= self.max_batch}
        if len(larger) > 1:
            raise ImportModelError(
                f"forward decides on the size of the batch{running_line()}, which is any from 1 to "
                f"{self.max_batch}: let it decide on other sizes, reset what an earlier call left "
                "in the module, or compile with max_batch=1"
            )
        (chosen,) = larger
        if self.lone is None and values[1] != chosen:
            self.lone = running_line()
        return chosen

    def _numpys(self, function: Callable[[float], float]) -> Callable[[Any], float]:
        def compute(size: Any) -> float:
            found = self._number(size, float)
            return function(float(size) if found is None else found)

        return compute

    def _values(self, size: Any, make: Callable[[Any], Any]) -> dict[int, Any] | None:
        """What a symbol is for each batch; None where it is more than a function of the batch."""
        if not is_of_batch(size):
            return None
        expr = size.node.expr
        if (expr, make) not in self._known:
            batches = sorted({*_told_apart(expr, self.max_batch), self.batch})
            self._known[expr, make] = {batch: make(of_batch(expr, batch)) for batch in batches}
        return self._known[expr, make]


def is_of_batch(size: Any) -> bool:
    """Whether a symbolic number depends on the batch alone, not on values of the input."""
    symbols = getattr(getattr(size.node, "expr", None), "free_symbols", ())
    return bool(symbols) and all(str(symbol).startswith("s") for symbol in symbols)


def _told_apart(expr: Any, max_batch: int) -> set[int]:
    """Batches up to `max_batch` among which an expression differs, if it does: all, if not many."""
    beside = {int(number) + off for number in expr.atoms(sympy.Integer) for off in (-1, 0, 1)}
    found = {*range(1, min(max_batch, _MOST) + 1), *beside, max_batch}
    return {batch for batch in found if 1 <= batch <= max_batch}


def of_batch(expr: Any, batch: int) -> Any:
    """An expression of PyTorch's for a batch: a number of sympy's or a truth."""
    return expr.xreplace({symbol: sympy.Integer(batch) for symbol in expr.free_symbols})


def _length(value: Any) -> int:
    """Python's ``len``; of a tensor that the user asks about, its first size."""
    if isinstance(value, torch.Tensor) and value.ndim:
        size = value.shape[0]
        if isinstance(size, torch.SymInt) and not is_foreign(sys._getframe(1).f_code.co_filename):
            return size  # it stands for an int while forward is traced
    return _LEN(value)


def _of_the_user(own: Callable[..., Any], make: Any, old: Any) -> Callable[[Any], Any]:
    def convert(size: Any) -> Any:
        if not is_foreign(sys._getframe(1).f_code.co_filename):
            found = own(size, make)
            if found is not None:
                return found
        return make(size.node.int_()) if old is None else old(size)

    return convert
