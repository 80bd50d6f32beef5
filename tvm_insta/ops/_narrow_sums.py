"""The TE of `bitserial_conv2d_blocked` for weights in bytes (uint8) or pairs of bytes (uint16).

Vectors of narrow lanes hold more output channels, and NEON counts the bits of bytes only. The data
stay words: piece i of a word is its bits P i .. P i + P - 1, P = 8 or 16. On a little-endian
machine that is the memory of the words as it stands, and the schedule for such a machine reads it
so. Both forms give the same popsum:

    pieces[n, y, x, u, i]                   piece i of unit u, which is 1, 2 or 4 words
    popsum[n, y, x, o] = sum over ky, kx, unit, piece of popcount(pieces ^ weight)

Pairs are summed in one step, in uint16. A byte holds the sum of at most 31 counts (31 * 8 = 248),
so bytes are summed in two:

    partial[n, y, x, outer..., o] uint8     the sum over the inner axes, at most 31 counts
    popsum[n, y, x, o] uint16 or int32      the sum over the outer axes, plane p shifted by p

The inner axes are the bytes of a unit and, where there is room, the kernel columns and the kernel
rows; the others are outer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm import te, tirx

from ._common import WORD, extent, known, reduce_axis

PIECE_BITS = {"uint8": 8, "uint16": 16}
"""Bits of a weight piece by its dtype."""

BYTES_RULE, PAIRS_RULE = "insta_bconv_bytes", "insta_bconv_pairs"
"""Names of the schedule rules, on the block of the popsum."""

_MOST = 31  # counts of 8 bits each that a byte can sum


@dataclass(frozen=True)
class Steps:
    """How a sum in bytes is split: the inner axes.

    Attributes:
        words: words of a unit: 1, 2 or 4.
        bytes: bytes of a unit that are summed; less than all where a tap has less than a word.
        columns: the kernel columns, or 1 if they are outer.
        rows: the kernel rows, or 1 if they are outer.
    """

    words: int
    bytes: int
    columns: int
    rows: int


def byte_steps(kernel_h: int, kernel_w: int, count: int) -> Steps:
    """Split the sum over taps of `count` bytes, which is a multiple of 4 or below it."""
    columns = kernel_w if kernel_w * min(count, 4) <= _MOST else 1
    larger = [w for w in (2, 4) if count % (4 * w) == 0 and 4 * w * columns <= _MOST]
    words = max(larger, default=1)
    summed = min(count, 4 * words)
    whole = columns == kernel_w and summed == count
    rows = kernel_h if whole and kernel_h * summed * columns <= _MOST else 1
    return Steps(words, summed, columns, rows)


def pair_steps(kernel_h: int, kernel_w: int, count: int) -> Steps:
    """The units of `count` pairs; nothing is split, since a lane of 16 bits has room for all."""
    words = 2 if count % 4 == 0 else 1
    return Steps(words, min(2 * count, 4 * words), kernel_w, kernel_h)


def pieces_fit(dtype: str, count: int) -> bool:
    """Whether a tap may have `count` pieces: whole words, or less than one."""
    per_word = WORD // PIECE_BITS[dtype]
    return count % per_word == 0 or count < per_word


def pairs_fit(kernel_h: int, kernel_w: int, count: int, bits: int) -> bool:
    """Whether a sum in pairs fits into its uint16, and is a plain sum."""
    return bits == 1 and kernel_h * kernel_w * count * 16 < 2**16


def te_popsum(
    data: te.Tensor,
    weight: te.Tensor,
    image: Sequence[tirx.Expr],
    *,
    strides: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    bits: int,
) -> te.Tensor:
    """Blocks "bconv_pieces", for bytes "bconv_partial", and "bconv".

    Args:
        data: [N, Hp, Wp, bits * groups * words of a tap] uint32.
        weight: [O / L, KH, B, KW, L] uint8 or uint16: B pieces of a tap.
        image: OH, OW.
        strides: vertical, horizontal.
        dilation: vertical, horizontal.
        groups: convolution groups.
        bits: bits of an activation.

    Returns:
        [N, OH, OW, O], uint16 if every popsum fits, else int32.
    """
    blocks, kernel_h, count, kernel_w, lanes = map(known, weight.shape)
    dtype = str(weight.dtype)
    piece_bits = PIECE_BITS[dtype]
    in_bytes = dtype == "uint8"
    per_word = WORD // piece_bits
    out = blocks * lanes
    split = (byte_steps if in_bytes else pair_steps)(kernel_h, kernel_w, count)
    unit = per_word * split.words
    units = -(-count // unit)
    batch, height, width, words = data.shape

    def piece(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, u: tirx.Expr, i: tirx.Expr) -> tirx.Expr:
        word = data(n, y, x, u * split.words + i // per_word)
        return (word >> (piece_bits * (i % per_word)).astype("uint32")).astype(dtype)

    pieces = te.compute(
        [batch, height, width, words // split.words, extent(unit)], piece, name="bconv_pieces"
    )
    inner = {"row": split.rows, "piece": split.bytes * 8 // piece_bits, "column": split.columns}
    outer = {
        "outer_row": kernel_h // split.rows,
        "outer_column": kernel_w // split.columns,
        "plane": bits,
        "unit": units,
    }
    outer = {name: size for name, size in outer.items() if size > 1} or {"unit": units}
    axes = {name: reduce_axis(size, name) for name, size in (inner | outer).items()}

    def differ(at: Mapping[str, tirx.Expr], *index: tirx.Expr) -> tirx.Expr:
        n, y, x, o = index
        zero = extent(0)
        group = 0 if groups == 1 else o // (out // groups)
        row = at.get("outer_row", zero) + axes["row"]
        column = at.get("outer_column", zero) + axes["column"]
        u = at.get("unit", zero)
        theirs = pieces(
            n,
            y * strides[0] + row * dilation[0],
            x * strides[1] + column * dilation[1],
            (at.get("plane", zero) * groups + group) * units + u,
            axes["piece"],
        )
        mine = weight(o // lanes, row, u * unit + axes["piece"], column, o % lanes)
        return tirx.popcount(theirs ^ mine)

    shape = [batch, *image, extent(out)]
    if not in_bytes:
        return te.compute(
            shape,
            lambda n, y, x, o: te.sum(
                differ(axes, n, y, x, o),
                axis=[axes["row"], *(axes[name] for name in outer), axes["piece"], axes["column"]],
            ),
            name="bconv",
            attrs={"schedule_rule": PAIRS_RULE},
        )

    def partial_sum(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, *rest: tirx.Expr) -> tirx.Expr:
        *apart, o = rest
        at = dict(zip(outer, apart, strict=True))
        return te.sum(differ(at, n, y, x, o), axis=[axes[name] for name in inner])

    apart = [extent(size) for size in outer.values()]
    partial = te.compute([batch, *image, *apart, extent(out)], partial_sum, name="bconv_partial")
    most = (2**bits - 1) * kernel_h * kernel_w * count * 8
    wide = "uint16" if most < 2**16 else "int32"

    def total(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        value = partial(n, y, x, *(axes[name] for name in outer), o).astype(wide)
        if "plane" in outer:
            value = value << axes["plane"].var.astype(wide)
        return te.sum(value, axis=[axes[name] for name in outer])

    return te.compute(shape, total, name="bconv", attrs={"schedule_rule": BYTES_RULE})
