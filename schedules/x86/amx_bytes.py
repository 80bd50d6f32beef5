"""Bits to +-1 bytes for AMX: the images, and the weights of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from tvm_insta.schedules.generic.loops import Axes, Loop, index, ramp, region, whole
from tvm_insta.schedules.x86.amx_shape import CHANNELS, ROWS, UNIT, WORD, Geometry

_LLVM = """
declare void @llvm.x86.ldtilecfg(ptr)
@insta_tiles = internal constant <{ i8, [15 x i8], <8 x i16>, [16 x i8], <8 x i8>, [8 x i8] }> <{
  i8 1, [15 x i8] zeroinitializer,
  <8 x i16> splat (i16 64), [16 x i8] zeroinitializer,
  <8 x i8> splat (i8 16), [8 x i8] zeroinitializer }>, align 64
define internal i32 @insta_tiles_begin() alwaysinline {
  call void @llvm.x86.ldtilecfg(ptr @insta_tiles)
  ret i32 0
}
define internal <64 x i8> @insta_signs64(i64 %bits) alwaysinline {
  %mask = bitcast i64 %bits to <64 x i1>
  %signs = select <64 x i1> %mask, <64 x i8> splat (i8 1), <64 x i8> splat (i8 -1)
  ret <64 x i8> %signs
}
define internal <32 x i8> @insta_signs32(i32 %bits) alwaysinline {
  %mask = bitcast i32 %bits to <32 x i1>
  %signs = select <32 x i1> %mask, <32 x i8> splat (i8 1), <32 x i8> splat (i8 -1)
  ret <32 x i8> %signs
}
"""
# The names of the functions are the same in every kernel: LLVM keeps internal ones apart.
IMPORT = {"pragma_import_llvm": _LLVM}


def expand_image(data: Any, to: Any, shape: Geometry) -> tirx.Stmt:
    """Write the padded images as bytes, row by row.

    Args:
        data: packed bits [N, H, W, Cw].
        to: bytes, the images one behind the other.
        shape: of the convolution.
    """
    words = 2 if shape.words % 2 == 0 else 1
    height = shape.padded[0]
    task = Loop(data.shape[0] * index(height), "row", tirx.ForKind.PARALLEL)
    column, part = Loop(shape.padded[1], "column"), Loop(shape.words // words, "part")
    axes = Axes(
        n=(data.shape[0], task.var // index(height)),
        y=(height, task.var % index(height)),
        x=(shape.padded[1], column.var),
        i=(shape.words // words, part.var),
    )
    n, y, x, i = axes.vars
    (top, left, _, _), image = shape.padding, shape.image
    inside = tirx.all(y >= top, y < top + image[0], x >= left, x < left + image[1])
    value = signs_of(data, [n, y - top, x - left, i * words], words)
    lanes = words * WORD
    value = tirx.if_then_else(inside, value, tirx.Broadcast(tirx.const(0, "int8"), lanes))
    at = (n * height + y) * shape.row + x * shape.pixel + i * lanes
    block = axes.block(
        "bconv_signs",
        tirx.BufferStore(to, value, [ramp(at, lanes)]),
        [whole(data)],
        [region(to, at, lanes)],
        IMPORT,
    )
    return task.around(column.around(part.around(block)))


def expand_weights(weight: Any, to: Any, shape: Geometry, first: Any, vectors: int) -> tirx.Stmt:
    """Write the weights of a task as bytes, tile after tile.

    Args:
        weight: bits [O / 16, KH, U, 16, 2].
        to: bytes [vectors, KH, U, 16, 64] in one dimension.
        shape: of the convolution.
        first: the task's first group of 16 output channels.
        vectors: how many groups it has.
    """
    loops = [
        Loop(vectors, "vector"),
        Loop(shape.kernel[0], "ky"),
        Loop(shape.units, "unit"),
        Loop(ROWS, "row"),
    ]
    axes = Axes(
        b=(shape.out_channels // CHANNELS, first + loops[0].var),
        v=(vectors, loops[0].var),
        k=(shape.kernel[0], loops[1].var),
        u=(shape.units, loops[2].var),
        r=(ROWS, loops[3].var),
    )
    b, v, k, u, r = axes.vars
    value = _weights_of(weight, shape, b, k, u, r)
    at = (((v * shape.kernel[0] + k) * shape.units + u) * ROWS + r) * UNIT
    nest = axes.block(
        "bconv_weights",
        tirx.BufferStore(to, value, [ramp(at, UNIT)]),
        [whole(weight)],
        [region(to, at, UNIT)],
    )
    for loop in reversed(loops):
        nest = loop.around(nest)
    return nest


def expand_tile(weight: Any, to: Any, shape: Geometry, at: tuple[Any, Any], slot: Any) -> tirx.Stmt:
    """Write one tile of weights as bytes.

    Args:
        weight: bits [O / 16, KH, U, 16, 2].
        to: bytes [slots, 16, 64] in one dimension.
        shape: of the convolution.
        at: group of 16 output channels, and number of the tile in it.
        slot: of `to`.
    """
    block, step = at
    place = block, step // shape.units, step % shape.units
    rows = [
        tirx.BufferStore(
            to,
            _weights_of(weight, shape, *place, index(row)),
            [ramp((slot * ROWS + row) * UNIT, UNIT)],
        )
        for row in range(ROWS)
    ]
    return tirx.SeqStmt(rows)


def _weights_of(weight: Any, shape: Geometry, block: Any, ky: Any, unit: Any, row: Any) -> Any:
    """A row of a tile of weights as bytes; 0 behind the last channel and the last tap."""
    value = signs_of(weight, [block, ky, unit, row, index(0)], 2)
    if shape.channels % WORD == 0 and shape.run % UNIT == 0:
        return value
    tap = unit * UNIT + row * 4
    counts = tirx.all(tap < shape.run, tap % shape.pixel < shape.channels)
    return tirx.if_then_else(counts, value, tirx.Broadcast(tirx.const(0, "int8"), UNIT))


def signs_of(bits: Any, at: Sequence[Any], words: int) -> Any:
    """Words of `bits` from an index on as bytes, +1 where a bit is 1, else -1."""
    loaded = tirx.BufferLoad(bits, [*at[:-1], ramp(at[-1], words)])
    if words == 1:
        return tirx.call_pure_extern("int8x32", "insta_signs32", loaded)
    wide = tirx.call_intrin("uint64", "tirx.reinterpret", loaded)
    return tirx.call_pure_extern("int8x64", "insta_signs64", wide)
