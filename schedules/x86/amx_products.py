"""The products of tiles of one group of rows, as tile instructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from tvm_insta.schedules.generic.loops import Loop, index
from tvm_insta.schedules.x86.amx_shape import CHANNELS, ROWS, UNIT, Geometry, tiles_at_once


@dataclass(frozen=True)
class Sums:
    """Where the tiles of sums of a group are stored.

    Attributes:
        buffer: int32; the sums of neighbouring pixels lie `stride` elements apart.
        first: element of the group's first sum.
        stride: elements from one pixel to the next.
    """

    buffer: Any
    first: Any
    stride: int


@dataclass(frozen=True)
class Operands:
    """What the products of a group read and write.

    Attributes:
        signs: the padded images as bytes, one behind the other.
        row: the first row of the group in them, counted over all images.
        weights: bytes [.., KH, U, 16, 64].
        first_weight: element of the first weight of the group's channels.
        sums: where the results go.
    """

    signs: Any
    row: Any
    weights: Any
    first_weight: Any
    sums: Sums


def write_products(shape: Geometry, rows: int, vectors: int, operands: Operands) -> tirx.Stmt:
    """All tiles of a group: as many at a time as registers hold, then the rest.

    Args:
        shape: of the convolution.
        rows: output rows of the group.
        vectors: 1 or 2, groups of 16 output channels.
        operands: see there.
    """
    most = tiles_at_once(vectors)
    count = shape.tiles_of(rows)
    steps = []
    if count >= most:
        several = Loop(count // most, "tiles")
        body = _several(shape, rows, vectors, operands, several.var * most, most)
        steps.append(several.around(body))
    if count % most:
        rest = count % most
        steps.append(_several(shape, rows, vectors, operands, index(count - rest), rest))
    return steps[0] if len(steps) == 1 else tirx.SeqStmt(steps)


def _several(
    shape: Geometry, rows: int, vectors: int, operands: Operands, first: Any, count: int
) -> tirx.Stmt:
    """`count` tiles of pixels, from tile `first` on, by all vectors of channels."""
    last = index(max(shape.sums_of(rows) - ROWS, 0))
    starts = [tirx.min((first + p) * ROWS, last) for p in range(count)]
    sum_at = [[p * vectors + v for v in range(vectors)] for p in range(count)]
    pixel_at = [count * vectors + p for p in range(count)]
    weight_at = [count * (vectors + 1) + v for v in range(vectors)]
    stride = shape.strides[1] * shape.pixel
    ky, unit = Loop(shape.kernel[0], "ky"), Loop(shape.units, "unit")
    row = (operands.row + ky.var) * shape.row + unit.var * UNIT
    body = []
    for v in range(vectors):
        at = ((ky.var + v * shape.kernel[0]) * shape.units + unit.var) * (ROWS * UNIT)
        at = operands.first_weight + at
        body.append(_tile("tileloadd64", weight_at[v], operands.weights, at, UNIT))
    for p in range(count):
        pixels = row + starts[p] * stride
        body.append(_tile("tileloadd64", pixel_at[p], operands.signs, pixels, stride))
        body += [
            _intrinsic("tdpbssd", sum_at[p][v], pixel_at[p], weight_at[v]) for v in range(vectors)
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
