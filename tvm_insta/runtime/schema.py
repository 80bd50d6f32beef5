"""JSON values into typed dataclasses, strictly: a wrong or missing key is named in an error."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


_HINTS: dict[type, dict[str, Any]] = {}
"""By dataclass: to find them takes longer than all the rest of reading a manifest."""


class SchemaError(ValueError):
    """A JSON value that does not have the form of its dataclass; the message is a clause."""


def from_json(cls: type[T], data: object, where: str = "") -> T:
    """Build the dataclass `cls` from the JSON object `data`; `where` is its path, for messages.

    Raises:
        SchemaError: for a missing key, an unknown key or a value of the wrong type.
    """
    if not isinstance(data, dict):
        raise SchemaError(f"{where or 'the file'} is a {_kind(data)}, an object is needed")
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    hints = _HINTS[cls]
    values: dict[str, Any] = {}
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        at = f"{where}.{item.name}" if where else item.name
        if item.name in data:
            values[item.name] = _value(hints[item.name], data[item.name], at)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise SchemaError(f"key {at} is missing")
    unknown = sorted(set(data) - {item.name for item in dataclasses.fields(cls)})  # type: ignore[arg-type]
    if unknown:
        raise SchemaError(f"unknown key {unknown[0]}{' in ' + where if where else ''}")
    return cls(**values)


def _value(hint: object, data: object, at: str) -> object:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _union(args, data, at)
    if origin is tuple:
        if not isinstance(data, list):
            raise SchemaError(f"{at} is a {_kind(data)}, a list is needed")
        return tuple(_value(args[0], item, f"{at}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict):
            raise SchemaError(f"{at} is a {_kind(data)}, an object is needed")
        return {key: _value(args[1], item, f"{at}.{key}") for key, item in data.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(hint, data, at)  # type: ignore[arg-type]
    if hint is float and type(data) is int:  # JSON has one kind of number
        data = _float(data, at)
    # bool is an int to Python, but not here.
    assert isinstance(hint, type), f"{at} has a type this reader does not know: {hint}"
    if not isinstance(data, hint) or (isinstance(data, bool) and hint is not bool):
        raise SchemaError(f"{at} is a {_kind(data)}, a {hint.__name__} is needed")
    return data


def _float(data: int, at: str) -> float:
    try:
        return float(data)
    except OverflowError as error:
        raise SchemaError(f"{at} is an integer beyond the numbers of float64") from error


def _union(options: tuple[object, ...], data: object, at: str) -> object:
    for option in options:
        if option is type(None):
            if data is None:
                return None
            continue
        try:
            return _value(option, data, at)
        except SchemaError as error:
            # Not the error itself: it would keep this frame, and the caller's module with it.
            failure = str(error)
    raise SchemaError(failure)


def _kind(data: object) -> str:
    return "null" if data is None else type(data).__name__
