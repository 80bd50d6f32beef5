"""The rule of binary convolutions on tensor cores, see `matrix_code`."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map

from tvm_insta.schedules.base import (
    NotApplicable,
    blocks,
    collect,
    extent,
    is_reduction,
    reads_in_place,
    rule_of,
    start,
)
from tvm_insta.schedules.cuda.blocks import inline_all, outputs, spatial_loops
from tvm_insta.schedules.cuda.matrix import (
    MatrixTile,
    choose_matrix_tile,
    matrix_space,
    unit_of,
)
from tvm_insta.schedules.cuda.matrix_code import Sums, write_matrix
from tvm_insta.schedules.generic.loops import index
from tvm_insta.schedules.variants import PackedLayer

RULE = "insta_bconv_runs"


def schedule_matrix(
    function: tirx.PrimFunc, target: tvm.target.Target, tile: MatrixTile | None = None
) -> tirx.PrimFunc:
    """Schedule `insta.bitserial_conv2d_runs` and everything fused with it.

    Raises:
        NotApplicable: the function is something else, or the card has no unit for it.
    """
    unit = unit_of(target)
    if unit is None:
        raise NotApplicable
    schedule, both, ones = _begin(function)
    layer = _layer(schedule, both, ones)
    parts = _parts(schedule, both, ones)
    chosen = tile or choose_matrix_tile(layer)
    return write_matrix(schedule.mod["main"], parts, layer, chosen, unit)


def matrix_tiles(function: tirx.PrimFunc, _: tvm.target.Target) -> list[MatrixTile]:
    """The tiles worth a measurement, of which the first is taken where nothing is measured."""
    schedule, both, ones = _begin(function)
    return matrix_space(_layer(schedule, both, ones))


def packed_layer(function: tirx.PrimFunc) -> PackedLayer | None:
    """The layer of `insta.bitserial_conv2d_runs` that a function computes; None for another."""
    try:
        return _layer(*_begin(function))
    except NotApplicable:
        return None


def _begin(function: tirx.PrimFunc) -> tuple[s_tir.Schedule, Any, Any]:
    """A schedule whose element-wise steps are inlined, and the two blocks of sums."""
    schedule = start(function)
    marked = [block for block in blocks(schedule) if rule_of(schedule, block) == RULE]
    if len(marked) != 1 or len(outputs(schedule)) != 1:
        raise NotApplicable
    (both,) = marked
    inline_all(schedule)
    others = [
        block
        for block in blocks(schedule)
        if is_reduction(schedule, block) and rule_of(schedule, block) != RULE
    ]
    if len(blocks(schedule)) != 3 or len(others) != 1:
        raise NotApplicable
    return schedule, both, others[0]


def _layer(schedule: s_tir.Schedule, both: Any, ones: Any) -> PackedLayer:
    """Sizes, from the loops and the tensors."""
    sizes = [extent(schedule, loop) for loop in spatial_loops(schedule, both)][1:]
    taps = [extent(schedule, loop) for loop in schedule.get_loops(ones)][3:]
    known = [size for size in (*sizes, *taps) if size is not None]
    if len(known) != 7:
        raise NotApplicable
    height, width, channels, bits, rows, columns, words = known
    return PackedLayer(
        image=(height, width),
        out_channels=channels,
        kernel=(rows, columns),
        words=words,
        bits=bits,
        strides=_strides(schedule, ones),
    )


def _strides(schedule: s_tir.Schedule, ones: Any) -> tuple[int, int]:
    """How far the first pixel of the window moves with the output's row and column."""
    block = schedule.get(ones)
    axes = [axis.var for axis in block.iter_vars]
    (load,) = [each for each in collect(block.body, TensorLoad) if len(each.indices) == 4]

    def first(row: int, column: int, axis: int) -> Any:
        at = {var: index(0) for var in axes} | {axes[1]: index(row), axes[2]: index(column)}
        moved = structural_map(load.indices[axis], [(tirx.Var, lambda var: at.get(var, var))])
        return int(tvm.sym.Analyzer().simplify(moved))

    return first(1, 0, 1) - first(0, 0, 1), first(0, 1, 2) - first(0, 0, 2)


def _sources(schedule: s_tir.Schedule, both: Any) -> tuple[Any, Any]:
    """The packed images and the weight."""
    found = [region.source for region in schedule.get(both).reads]
    data = [buffer for buffer in found if len(buffer.shape) == 4 and str(buffer.dtype) == "uint32"]
    weight = [buffer for buffer in found if len(buffer.shape) == 5]
    if len(data) != 1 or len(weight) != 1:
        raise NotApplicable
    return data[0], weight[0]


def _parts(schedule: s_tir.Schedule, both: Any, ones: Any) -> Sums:
    (output,) = outputs(schedule)
    block = schedule.get(output)
    if not reads_in_place(schedule, output, both) or not isinstance(block.body, tirx.BufferStore):
        raise NotApplicable
    data, weight = _sources(schedule, both)
    return Sums(
        data=data,
        weight=weight,
        both=schedule.get(both).writes[0].source,
        ones=schedule.get(ones).writes[0].source,
        axes=[axis.var for axis in block.iter_vars],
        store=block.body,
    )
