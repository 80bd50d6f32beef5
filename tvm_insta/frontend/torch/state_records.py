"""What single objects held, and how it is put back: the parts of a `state.Snapshot`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

MISSING = object()
"""In place of an attribute that is not there."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
"""Types whose objects cannot change; they are compared by value."""


@dataclass(frozen=True)
class Record:
    """What one object held.

    Attributes:
        changed: names of what differs now, as paths from the module.
        restore: puts the object back.
    """

    changed: Callable[[], list[str]]
    restore: Callable[[], None]


class Empty:
    """A `Record` of an empty dictionary, of which every nn.Module has a dozen, at less cost."""

    __slots__ = ("held", "path")

    def __init__(self, path: str, held: dict[Any, Any]) -> None:
        self.path, self.held = path, held

    def changed(self) -> list[str]:
        """Its name, where something was put into it."""
        return [self.path] if self.held else []

    def restore(self) -> None:
        """Take everything out."""
        self.held.clear()


def of_tensor(path: str, tensor: torch.Tensor) -> Record:
    """Values, memory and whether it learns: a tensor keeps its own memory."""
    memory, kept, learns = tensor.data, tensor.data.clone(), tensor.requires_grad

    def moved() -> bool:
        return not has_values(tensor) or (
            tensor.data_ptr() != memory.data_ptr()
            or tensor.dtype != memory.dtype
            or tensor.shape != memory.shape
            or tensor.stride() != memory.stride()
        )

    def changed() -> list[str]:
        now = tensor.data
        same = now.shape == kept.shape and now.dtype == kept.dtype and _same_bits(now, kept)
        return [] if same else [path]

    def restore() -> None:
        if moved():
            tensor.data = memory
        if not _same_bits(memory, kept) and torch._debug_has_internal_overlap(memory) != 1:
            memory.copy_(kept)
        if tensor.is_leaf and tensor.requires_grad != learns:
            tensor.requires_grad_(learns)

    return Record(changed, restore)


def of_array(path: str, array: np.ndarray[Any, Any]) -> Record:
    """Values of a NumPy array."""
    kept = array.copy()

    def changed() -> list[str]:
        same = array.shape == kept.shape and array.tobytes() == kept.tobytes()
        return [] if same else [path]

    def restore() -> None:
        if changed() and array.flags.writeable and array.shape == kept.shape:
            array[...] = kept

    return Record(changed, restore)


def of_generator(path: str, source: Any) -> Record:
    """Random numbers of the module's own."""

    def now() -> Any:
        if isinstance(source, torch.Generator):
            return source.get_state().tolist()
        return source.getstate() if isinstance(source, random.Random) else bits.state

    def restore() -> None:
        if isinstance(source, torch.Generator):
            source.set_state(torch.tensor(kept, dtype=torch.uint8))
        elif isinstance(source, random.Random):
            source.setstate(kept)
        else:
            bits.state = kept

    bits: Any = getattr(source, "bit_generator", None)
    kept = now()
    return Record(lambda: [path] if repr(now()) != repr(kept) else [], restore)


def of_container(path: str, value: Any) -> Record:
    """A list, a deque or a set."""
    kept = value.copy() if isinstance(value, set) else list(value)

    def same(alike: Callable[[Any, Any], bool]) -> bool:
        if isinstance(value, set):
            return bool(value == kept)
        return len(value) == len(kept) and all(map(alike, value, kept))

    def restore() -> None:
        if not same(lambda a, b: a is b):
            value.clear()
            value.update(kept) if isinstance(value, set) else value.extend(kept)

    return Record(lambda: [] if same(lambda a, b: not differ(a, b)) else [path], restore)


def of_place(path: str, owner: Any, name: str, held: Any) -> Record:
    """One attribute of an object without a dictionary."""

    def restore() -> None:
        if getattr(owner, name, MISSING) is held:
            return
        if held is MISSING:
            object.__delattr__(owner, name)
        else:
            object.__setattr__(owner, name, held)

    return Record(lambda: [path] if differ(getattr(owner, name, MISSING), held) else [], restore)


def differ(before: Any, now: Any) -> bool:
    """Whether an attribute is another object, or another number."""
    if before is now:
        return False
    return not (isinstance(before, PLAIN) and type(before) is type(now) and before == now)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one shape and type are equal, NaN and the sign of zero included."""
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    if one.is_floating_point():
        bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
        one, other = one.view(bits), other.view(bits)
    return torch.equal(one, other)


def has_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values can be copied."""
    if isinstance(tensor, (FakeTensor, UninitializedTensorMixin)):
        return False
    return tensor.layout == torch.strided and tensor.device.type != "meta"
