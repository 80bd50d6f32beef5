"""The products of tiles of one group of rows, as tile instructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx

from tvm_insta.schedules.generic.loops import Loop, index, sequence
from tvm_insta.schedules.x86.amx_bytes import expand_tile
from tvm_insta.schedules.x86.amx_form import Product
from tvm_insta.schedules.x86.amx_shape import (
    CHANNELS,
    RING,
    ROWS,
    UNIT,
    Geometry,
    tiles_at_once,
)

_AHEAD_AT_ONCE = 4
"""Tiles of pixels that meet one tile of weights on the way: it is used as often as registers let
it be, and its 16 stores hide behind 4 products."""


@dataclass(frozen=True)
class Sums:
    """Where the tiles of sums of a group are stored.

    Attributes:
        buffer: of 32-bit numbers; the sums of neighbouring pixels lie `stride` elements apart.
        first: element of the group's first sum.
        stride: elements from one pixel to the next.
    """

    buffer: Any
    first: Any
    stride: int


@dataclass(frozen=True)
class Ahead:
    """Weights that are expanded ahead of their use.

    Attributes:
        bits: [O / 16, KH, U, 16, 2].
        block: the first group of 16 output channels.
        tiles: how many tiles ahead.
    """

    bits: Any
    block: Any
    tiles: int


@dataclass(frozen=True)
class Operands:
    """What the products of a group read and write.

    Attributes:
        product: the instruction.
        image: the padded images in numbers that tiles load, one behind the other.
        row: the first row of the group in them, counted over all images.
        weights: tiles [.., KH, U, 16, 64 bytes]; with `ahead` a ring of `RING` of them.
        first_weight: element of the first weight of the group's channels.
        sums: where the results go.
        ahead: where the tiles of the ring come from.
    """

    product: Product
    image: Any
    row: Any
    weights: Any
    first_weight: Any
    sums: Sums
    ahead: Ahead | None = None


def write_products(shape: Geometry, rows: int, vectors: int, operands: Operands) -> tirx.Stmt:
    """All tiles of a group: as many at a time as registers hold, then the rest.

    Args:
        shape: of the convolution.
        rows: output rows of the group.
        vectors: 1 or 2, groups of 16 output channels.
        operands: see there.
    """
    if operands.ahead is None:
        steps = _blocks(
            shape.tiles_of(rows),
            tiles_at_once(vectors),
            partial(_several, shape, rows, vectors, operands),
        )
    else:
        steps = []
        for vector in range(vectors):
            write = partial(_ahead, shape, rows, vector, operands)
            steps += _blocks(shape.tiles_of(rows), _AHEAD_AT_ONCE, write)
    return sequence(steps)


def _blocks(count: int, most: int, write: Callable[[Any, int], tirx.Stmt]) -> list[tirx.Stmt]:
    """`count` tiles, `most` at a time in a loop, then the rest; `write` takes first and number."""
    steps, rest = [], count % most
    if count >= most:
        loop = Loop(count // most, "tiles")
        steps.append(loop.around(write(loop.var * most, most)))
    if rest:
        steps.append(write(index(count - rest), rest))
    return steps


def _several(
    shape: Geometry, rows: int, vectors: int, operands: Operands, first: Any, count: int
) -> tirx.Stmt:
    """`count` tiles of pixels, from tile `first` on, by all vectors of channels."""
    starts = _starts(shape, rows, first, count)
    sum_at = [[p * vectors + v for v in range(vectors)] for p in range(count)]
    pixel_at = [count * vectors + p for p in range(count)]
    weight_at = [count * (vectors + 1) + v for v in range(vectors)]
    stride = shape.strides[1] * shape.pixel
    ky, unit = Loop(shape.kernel[0], "ky"), Loop(shape.units, "unit")
    each = shape.element  # what is below counts numbers, all but the strides
    row = (operands.row + ky.var) * (shape.row // each) + unit.var * (UNIT // each)
    body = []
    for v in range(vectors):
        at = ((ky.var + v * shape.kernel[0]) * shape.units + unit.var) * (ROWS * UNIT // each)
        at = operands.first_weight + at
        body.append(_tile("tileloadd64", weight_at[v], operands.weights, at, UNIT))
    for p in range(count):
        pixels = row + starts[p] * (stride // each)
        body.append(_tile("tileloadd64", pixel_at[p], operands.image, pixels, stride))
        body += [
            _intrinsic(operands.product.instruction, sum_at[p][v], pixel_at[p], weight_at[v])
            for v in range(vectors)
        ]
    sums = operands.sums
    every = [(p, v) for p in range(count) for v in range(vectors)]
    stores = [
        _tile(
            "tilestored64",
            sum_at[p][v],
            sums.buffer,
            sums.first + starts[p] * sums.stride + v * CHANNELS,
            sums.stride * 4,
        )
        for p, v in every
    ]
    zeros = [_intrinsic("tilezero", sum_at[p][v]) for p, v in every]
    return tirx.SeqStmt([*zeros, ky.around(unit.around(tirx.SeqStmt(body))), *stores])


def _ahead(
    shape: Geometry, rows: int, vector: int, operands: Operands, first: Any, count: int
) -> tirx.Stmt:
    """`count` tiles of pixels by one vector of channels, whose weights are expanded on the way."""
    ahead, ring, sums = operands.ahead, operands.weights, operands.sums
    assert ahead is not None
    starts = _starts(shape, rows, first, count)
    block, last = ahead.block + vector, shape.steps - 1
    stride = shape.strides[1] * shape.pixel
    begin = [
        expand_tile(ahead.bits, ring, shape, (block, index(step)), index(step))
        for step in range(min(ahead.tiles, shape.steps))
    ]
    ky, unit = Loop(shape.kernel[0], "ky"), Loop(shape.units, "unit")
    step = ky.var * shape.units + unit.var
    # The last steps make the last tile again, in a slot that nobody reads any more.
    coming = tirx.min(step + ahead.tiles, index(last)), (step + ahead.tiles) % RING
    weight_at, pixel_at = count, [count + 1 + p % (7 - count) for p in range(count)]
    row = (operands.row + ky.var) * shape.row + unit.var * UNIT
    body = [
        expand_tile(ahead.bits, ring, shape, (block, coming[0]), coming[1]),
        _tile("tileloadd64", weight_at, ring, step % RING * (ROWS * UNIT), UNIT),
    ]
    for p in range(count):
        pixels = row + starts[p] * stride
        body.append(_tile("tileloadd64", pixel_at[p], operands.image, pixels, stride))
        body.append(_intrinsic(operands.product.instruction, p, pixel_at[p], weight_at))
    stores = [
        _tile(
            "tilestored64",
            p,
            sums.buffer,
            sums.first + starts[p] * sums.stride + vector * CHANNELS,
            sums.stride * 4,
        )
        for p in range(count)
    ]
    zeros = [_intrinsic("tilezero", p) for p in range(count)]
    return tirx.SeqStmt([*begin, *zeros, ky.around(unit.around(tirx.SeqStmt(body))), *stores])


def _starts(shape: Geometry, rows: int, first: Any, count: int) -> list[Any]:
    """First sums of `count` tiles; the last tile of a group is moved back to end with it."""
    last = index(max(shape.sums_of(rows) - ROWS, 0))
    return [tirx.min((first + p) * ROWS, last) for p in range(count)]


def _intrinsic(name: str, *numbers: int) -> tirx.Stmt:
    registers = [tirx.const(number, "uint8") for number in numbers]
    return tirx.Evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *registers))


def _tile(name: str, number: int, buffer: Any, at: Any, stride: int) -> tirx.Stmt:
    """Load or store a tile: rows from element `at` on, `stride` bytes apart."""
    # An access pointer, unlike the address of an element, makes TVM keep the whole buffer.
    address = buffer.access_ptr("rw", offset=at)
    register = tirx.const(number, "uint8")
    return tirx.Evaluate(
        tirx.call_llvm_intrin("void", f"llvm.x86.{name}", register, address, index(stride))
    )
