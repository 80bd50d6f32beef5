"""All that a module keeps between calls, so that running it or exporting it leaves no trace.

Forward of a published network counts calls, logs activations, caches masks, initialises scales at
the first call. Whoever looks at a module runs it more often than its user does, and torch.export
runs it on tensors without values. `unchanged` puts everything back that can be reached from the
module: parameters and buffers, attributes of modules and of other objects, lists, dictionaries,
sets and deques, tensors and arrays in them, attributes of the user's classes, variables that hooks
and other functions close over. Objects keep their identity; what they hold is put back into them.

Not put back: variables of files (``global step``), open files, iterators, and what lies inside
objects of other libraries.
"""

from __future__ import annotations

import collections
import enum
import random
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from tvm_insta.frontend.torch.state_records import (
    MISSING,
    PLAIN,
    Empty,
    Record,
    differ,
    has_values,
    of_array,
    of_container,
    of_generator,
    of_place,
    of_tensor,
)

_TRANSPARENT = frozenset({"_parameters", "_buffers", "_modules"})
"""Dictionaries of nn.Module whose entries a user reads as attributes of the module."""
_CLOSED = frozenset({*sys.stdlib_module_names, "torch", "numpy", "tvm", "sympy"}) - {"types"}
"""Libraries whose objects are not looked into."""


@contextmanager
def unchanged(module: nn.Module) -> Iterator[nn.Module]:
    """Give the module in eval mode, without gradients; afterwards its whole state is as before."""
    before = Snapshot(module)
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        before.restore()


class Snapshot:
    """The state of a module at the time the snapshot is made.

    Args:
        module: its parameters and buffers are copied, too.
    """

    def __init__(self, module: nn.Module) -> None:
        self._records: list[Record | Empty] = []
        self._seen: dict[int, Any] = {}  # holds the objects, so that no id is used twice
        waiting: list[tuple[str, Any]] = [("", module)]
        while waiting:
            path, value = waiting.pop()
            if isinstance(value, PLAIN) or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            if type(value) in (dict, collections.OrderedDict) and not value:
                self._records.append(Empty(path, value))
                continue
            waiting.extend(reversed(list(self._record(path, value))))

    def restore(self) -> None:
        """Put everything back."""
        for record in self._records:
            record.restore()

    def changed(self) -> tuple[str, ...]:
        """Names of what differs now: ``"layer1.0.step"``, ``"Quantiser.calls"`` of a class."""
        found = [name for record in self._records for name in record.changed()]
        return tuple(dict.fromkeys(found))

    def _record(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Keep what one object holds; gives the objects in it, with their names."""
        if isinstance(value, torch.Tensor):
            if has_values(value):
                self._records.append(of_tensor(path, value))
            yield path, vars(value)
        elif isinstance(value, np.ndarray):
            self._records.append(of_array(path, value))
        elif isinstance(value, (torch.Generator, random.Random, np.random.Generator)):
            self._records.append(of_generator(path, value))
        elif isinstance(value, collections.OrderedDict):
            yield from self._mapping(path, value, collections.OrderedDict, whole=True)
        elif isinstance(value, dict):
            yield from self._mapping(path, value, dict, whole=True)
        elif isinstance(value, (list, collections.deque, set)):
            self._records.append(of_container(path, value))
        if isinstance(value, (list, collections.deque, set, tuple, frozenset)):
            yield from ((path, item) for item in value)
        yield from self._inside(path, value)

    def _inside(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Attributes of an object and its classes, variables of a function."""
        if isinstance(value, types.MethodType):
            yield path, value.__self__
            value = value.__func__
        if isinstance(value, types.FunctionType):
            names = value.__code__.co_freevars
            for name, cell in zip(names, value.__closure__ or (), strict=True):
                yield from self._cell(f"{value.__qualname__}.{name}", cell)
            yield from ((path, item) for item in value.__defaults__ or ())
            yield from self._mapping(value.__qualname__, vars(value), dict)
        elif _is_open(value):
            own = getattr(value, "__dict__", None)
            if isinstance(own, dict):
                yield from self._mapping(path, own, dict)
            if not isinstance(value, nn.Module):
                yield from self._slots(path, value)
            for each in filter(_is_users, type(value).__mro__):
                if id(each) not in self._seen:
                    self._seen[id(each)] = each
                    yield from self._class(each)

    def _mapping(
        self, path: str, held: dict[Any, Any], base: Any, *, whole: bool = False
    ) -> Iterator[tuple[str, Any]]:
        """A dictionary: of attributes, or (``whole``) one that is the attribute itself."""
        before = dict(held)

        def name(key: Any) -> str:
            if whole or (isinstance(key, str) and key in _TRANSPARENT):
                return path
            return f"{path}.{key}" if path else str(key)

        def changed() -> list[str]:
            keys = dict.fromkeys([*before, *held])
            return [
                name(key)
                for key in keys
                if differ(before.get(key, MISSING), held.get(key, MISSING))
            ]

        def restore() -> None:
            same = len(before) == len(held) and all(
                own is other and value is held[own]
                for (own, value), other in zip(before.items(), held, strict=True)
            )
            if not same:
                base.clear(held)
                for key, value in before.items():
                    base.__setitem__(held, key, value)

        self._records.append(Record(changed, restore))
        for key, value in before.items():
            if whole or key not in _TRANSPARENT:
                yield name(key), value
            else:
                yield from self._attributes(path, value)

    def _attributes(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Parameters, buffers or submodules of a module."""
        if isinstance(value, dict) and id(value) not in self._seen:
            self._seen[id(value)] = value
            base = collections.OrderedDict if isinstance(value, collections.OrderedDict) else dict
            yield from self._mapping(path, value, base)

    def _slots(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        for each in type(value).__mro__:
            for name, member in vars(each).items():
                if isinstance(member, types.MemberDescriptorType) and _is_users(each):
                    held = getattr(value, name, MISSING)
                    self._records.append(of_place(f"{path}.{name}", value, name, held))
                    yield f"{path}.{name}", held

    def _class(self, each: type) -> Iterator[tuple[str, Any]]:
        """Data of a class; not its functions, nor what describes attributes."""
        before = _data(each)

        def changed() -> list[str]:
            now = _data(each)
            keys = dict.fromkeys([*before, *now])
            return [
                f"{each.__name__}.{key}"
                for key in keys
                if differ(before.get(key, MISSING), now.get(key, MISSING))
            ]

        def restore() -> None:
            now = _data(each)
            for key in now.keys() - before.keys():
                type.__delattr__(each, key)
            for key, value in before.items():
                if now.get(key, MISSING) is not value:
                    type.__setattr__(each, key, value)

        self._records.append(Record(changed, restore))
        yield from ((f"{each.__name__}.{key}", value) for key, value in before.items())

    def _cell(self, name: str, cell: types.CellType) -> Iterator[tuple[str, Any]]:
        try:
            held = cell.cell_contents
        except ValueError:  # a variable without a value yet
            return
        self._records.append(of_place(name, cell, "cell_contents", held))
        yield name, held


def _is_open(value: Any) -> bool:
    """Whether an object's attributes are the user's state."""
    if isinstance(value, (type, types.ModuleType, torch.Tensor, enum.Enum, np.ndarray)):
        return False
    return isinstance(value, nn.Module) or not _library(type(value)) & _CLOSED


def _is_users(each: type) -> bool:
    return not _library(each) & (_CLOSED | {"types"})


def _library(each: type) -> set[str]:
    return {str(getattr(each, "__module__", "")).partition(".")[0]}


def _data(each: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(each).items()
        if not name.startswith("__") and not hasattr(value, "__get__")
    }
