"""Where every tensor of a program lives: constants in one blob, everything else in one arena.

All offsets are multiples of 64 bytes, the alignment that the kernels assume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tvm_insta.codegen.in_place import Overwrite
from tvm_insta.codegen.program import CodegenError, Program, Ref
from tvm_insta.codegen.raw import RawKernel

ALIGNMENT = 64


@dataclass(frozen=True)
class Place:
    """`size` bytes at `offset` in the constants or in the arena."""

    kind: Literal["constant", "arena"]
    offset: int
    size: int

    def __post_init__(self) -> None:
        if self.offset % ALIGNMENT or self.offset < 0 or self.size < 0:
            raise CodegenError(f"internal: {self} is not a place aligned to {ALIGNMENT} bytes")


@dataclass(frozen=True)
class Peak:
    """The kernel call during which most memory is in use.

    Attributes:
        call: its number.
        alive: bytes of all tensors and scratch arrays that are alive then, each rounded up to the
            alignment: no arena can be smaller.
        scratch: bytes of the call's scratch arrays among them.
    """

    call: int
    alive: int
    scratch: int


@dataclass(frozen=True)
class Plan:
    """A program with static shapes (batch 1) and the place of each of its tensors.

    `inputs` and `output` are arena slots that the driver uses only where a caller's pointer is not
    aligned; otherwise the kernels read and write the caller's memory.
    """

    program: Program
    kernels: Mapping[str, RawKernel]
    codes: tuple[str, ...]
    """For each call, the symbol in `kernels`: the call's own, or of its variant in place."""
    overwrites: tuple[Overwrite | None, ...]
    """For each call, what it writes over what."""
    constants: tuple[Place, ...]
    inputs: tuple[Place, ...]
    values: tuple[Place, ...]
    shared: tuple[tuple[Place, ...], ...]
    """For each call, the places of the scratch arrays that all threads see."""
    own: tuple[Place, ...]
    """For each call, the scratch memory of the thread that runs the network; see `own_offsets`."""
    arena_bytes: int
    peak: Peak
    blob: bytes

    def kernel(self, at: int) -> RawKernel:
        """The functions of a call."""
        return self.kernels[self.codes[at]]

    def own_offsets(self, at: int) -> tuple[int, ...]:
        """Where a thread's scratch memory holds the arrays that a call needs for each thread."""
        return _offsets(self.kernel(at).own)[0]

    @property
    def thread_bytes(self) -> int:
        """Scratch memory of each further thread."""
        return max((place.size for place in self.own), default=0)

    @property
    def output(self) -> Place:
        """The arena slot of the network's output."""
        return self.values[self.program.result.index]


@dataclass
class _Wish:
    """A request for arena memory during the calls `first` to `last`, both included."""

    size: int
    first: int
    last: int
    offset: int = -1


def make_plan(
    program: Program,
    kernels: Mapping[str, RawKernel],
    overwrites: tuple[Overwrite | None, ...] | None = None,
) -> Plan:
    """Place the tensors of `program`, and the scratch arrays of its kernels.

    Arena memory is shared between tensors that are never alive at the same time: the largest come
    first, each at the lowest offset that is free during its whole life.

    Raises:
        CodegenError: if a shape is symbolic.
    """
    end = len(program.calls)
    overwrites = overwrites or (None,) * end
    codes = tuple(
        code_symbol(call.symbol, over) for call, over in zip(program.calls, overwrites, strict=True)
    )
    last_use = program.last_reads()
    inputs = [
        _Wish(spec.nbytes, 0, last_use.get(Ref("input", index), 0))
        for index, spec in enumerate(program.inputs)
    ]
    values: list[_Wish] = []
    temporary: list[list[_Wish]] = []
    own: list[_Wish] = []
    for at, call in enumerate(program.calls):
        for index in call.outputs:
            ref = Ref("value", index)
            last = end if ref == program.result else last_use.get(ref, at)
            over = overwrites[at]
            if over is not None and over.output == len(values) - call.outputs[0]:
                # One place for both, for as long as either lives.
                values.append(values[call.args[over.argument].index])
                values[-1].last = max(values[-1].last, last)
            else:
                values.append(_Wish(program.values[index].nbytes, at, last))
        temporary.append([_Wish(size, at, at) for size in kernels[codes[at]].shared])
        own.append(_Wish(_offsets(kernels[codes[at]].own)[1], at, at))
    places = {id(wish): wish for wish in values}.values()
    wishes = [*inputs, *places, *(wish for group in temporary for wish in group), *own]
    arena_bytes = _fit(wishes)
    constants, blob = _pack_constants(program)
    return Plan(
        program=program,
        kernels=kernels,
        codes=codes,
        overwrites=overwrites,
        constants=constants,
        inputs=tuple(_arena(wish) for wish in inputs),
        values=tuple(_arena(wish) for wish in values),
        shared=tuple(tuple(_arena(wish) for wish in group) for group in temporary),
        own=tuple(_arena(wish) for wish in own),
        arena_bytes=arena_bytes,
        peak=_peak(wishes, [[*group, mine] for group, mine in zip(temporary, own, strict=True)]),
        blob=blob,
    )


def code_symbol(symbol: str, over: Overwrite | None) -> str:
    """The name of a kernel, or of its variant that writes over an argument."""
    return symbol if over is None else f"{symbol}_{over.output}over{over.argument}"


def _peak(wishes: Iterable[_Wish], scratch: list[list[_Wish]]) -> Peak:
    alive = [0] * len(scratch)
    for wish in wishes:
        for at in range(wish.first, min(wish.last + 1, len(alive))):
            alive[at] += _aligned(wish.size)
    most = max(range(len(alive)), key=alive.__getitem__)
    own = sum(_aligned(wish.size) for wish in scratch[most])
    return Peak(most, max(alive[most], ALIGNMENT), own)


def _offsets(sizes: Iterable[int]) -> tuple[tuple[int, ...], int]:
    """Arrays one behind the other: the offset of each, and the bytes of all."""
    offsets, total = [], 0
    for size in sizes:
        offsets.append(total)
        total += _aligned(size)
    return tuple(offsets), total


def _fit(wishes: Iterable[_Wish]) -> int:
    """Give every wish an offset; returns the bytes needed in all (at least one unit)."""
    placed: list[_Wish] = []
    total = ALIGNMENT
    for wish in sorted(wishes, key=lambda w: (-w.size, w.first, w.last)):
        rivals = [p for p in placed if p.first <= wish.last and wish.first <= p.last]
        offset = 0
        for rival in sorted(rivals, key=lambda p: p.offset):
            if offset + wish.size <= rival.offset:
                break
            offset = max(offset, _aligned(rival.offset + rival.size))
        wish.offset = offset
        placed.append(wish)
        total = max(total, _aligned(offset + wish.size))
    return total


def _pack_constants(program: Program) -> tuple[tuple[Place, ...], bytes]:
    blob = bytearray()
    places = []
    for array in program.constants:
        blob.extend(bytes(_aligned(len(blob)) - len(blob)))
        places.append(Place("constant", len(blob), array.nbytes))
        blob.extend(np.ascontiguousarray(array).tobytes())
    # A kernel may load a whole vector at the end of the last constant; and no blob is empty.
    blob.extend(bytes(_aligned(len(blob) + 1) - len(blob)))
    return tuple(places), bytes(blob)


def _arena(wish: _Wish) -> Place:
    return Place("arena", wish.offset, wish.size)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
