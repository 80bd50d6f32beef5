"""Float images as codes for AMX: the block "narrow_pad", row by row."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm_ffi import structural_map

from tvm_insta.schedules.generic.loops import Axes, Loop, index, ramp, sequence, whole
from tvm_insta.schedules.x86.amx_shape import UNIT, NumbersGeometry


def write_codes(block: Any, data: Any, to: Any, shape: NumbersGeometry) -> tirx.Stmt:
    """Write the padded images as codes, row by row.

    Args:
        block: "narrow_pad", which says what a code is.
        data: [N, H, W, C] float32.
        to: codes, the images one behind the other.
        shape: of the convolution.
    """
    height, (top, left, _, _) = shape.padded[0], shape.padding
    numbers, image = shape.row // shape.element, shape.image[1] * shape.channels
    task = Loop(data.shape[0] * index(height), "row", tirx.ForKind.PARALLEL)
    axes = Axes(n=(data.shape[0], task.var // index(height)), y=(height, task.var % index(height)))
    n, y = axes.vars
    first, before = (n * height + y) * numbers, left * shape.channels
    code, nothing = _code_of(block)
    old = [each.var for each in block.iter_vars]

    # One number at a time: LLVM makes vectors of this loop, TVM none of what rounds.
    number = Loop(image, "number")
    element = index(before) + number.var
    places = dict(zip(old, (n, y, element), strict=True))
    value = structural_map(code, [(tirx.Var, lambda v: places.get(v, v))])
    inner = number.around(tirx.BufferStore(to, value, [first + element]))

    def border(at: int, count: int) -> list[tirx.Stmt]:
        return _filled(to, nothing, first + index(at), count, UNIT // shape.element)

    behind = before + image
    row = sequence([*border(0, before), inner, *border(behind, numbers - behind)])
    if shape.padded[0] > shape.image[0]:
        inside = tirx.all(y >= top, y < top + shape.image[0])
        row = tirx.IfThenElse(inside, row, sequence(border(0, numbers)))
    written = axes.block("narrow_pad", row, [whole(data)], [whole(to)])
    rows = task.around(written)
    if shape.element == 1:
        return rows
    # Behind the last window a unit goes on to numbers that meet a weight of 0: none may be a NaN.
    end = data.shape[0] * index(height * numbers)
    lanes = UNIT // shape.element
    (zeros,) = _filled(to, tirx.const(0, to.dtype), end, lanes, lanes)
    return tirx.SeqStmt([rows, Axes().block("narrow_end", zeros, [], [whole(to)])])


def _code_of(block: Any) -> tuple[Any, Any]:
    """The code of a number of the image, and that of the padding; TVM may know there is none."""
    value = block.body.value
    if str(getattr(getattr(value, "op", None), "name", "")).endswith("if_then_else"):
        _, code, nothing = value.args
        return code, nothing
    return value, tirx.const(0, str(value.ty.dtype))


def _filled(to: Any, value: Any, first: Any, count: int, lanes: int) -> list[tirx.Stmt]:
    """Fill `count` elements with a value, `lanes` at a time in a loop, then the rest."""
    steps, rest = [], count % lanes
    if count >= lanes:
        loop = Loop(count // lanes, "vector")
        at = ramp(first + loop.var * lanes, lanes)
        steps.append(loop.around(tirx.BufferStore(to, tirx.Broadcast(value, lanes), [at])))
    if rest:
        each = value if rest == 1 else tirx.Broadcast(value, rest)
        steps.append(tirx.BufferStore(to, each, [ramp(first + index(count - rest), rest)]))
    return steps
