"""What kind of function a PrimFunc is, by its blocks."""

from __future__ import annotations

from tvm import tirx

from tvm_insta.schedules.base import blocks, is_reduction, name_of, rule_of, start
from tvm_insta.schedules.generic.float_ops import reduction_kind

BINARY_CONVOLUTIONS = frozenset(
    {
        "insta_bconv",
        "insta_bconv_bytes",
        "insta_bconv_nibbles",
        "insta_bconv_pairs",
        "insta_bconv_runs",
        "insta_bconv_signs",
    }
)
"""The kinds of functions that are binary convolutions, and the rules that schedule them."""

FLOAT_CONVOLUTIONS = frozenset({"insta_fconv", "insta_fconv_tiles"})
"""The same of float convolutions."""

CONVOLUTIONS = BINARY_CONVOLUTIONS | FLOAT_CONVOLUTIONS
"""The same of all convolutions."""

MARKED = CONVOLUTIONS | {"insta_pack"}
"""Our operators' values of a block's `schedule_rule`; TVM's own operators have others."""


def kind_of(function: tirx.PrimFunc) -> str:
    """The rule that a CPU would use for the function, by its blocks."""
    schedule = start(function)
    every = blocks(schedule)
    marked = {rule_of(schedule, block) for block in every} & MARKED
    if marked:
        return min(marked)
    if any(is_reduction(schedule, block) for block in every):
        return reduction_kind([name_of(schedule, block) for block in every])
    return "elementwise"
