"""The packed layouts of the binary operators, on the numpy side.

Bit c % 32 of word c // 32 belongs to channel c; bit 1 means +1 (bipolar) or 1 (unsigned). Each
channel group starts a new word, and bits beyond the last channel of a group are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tvm_insta.errors import OpError

WORD = 32

Element = TypeVar("Element", bound=np.generic)


def popcount(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Number of 1 bits of every word, any shape, uint32 (numpy 1.26 has no bitwise_count)."""
    pairs = words - ((words >> 1) & np.uint32(0x55555555))
    nibbles = (pairs & np.uint32(0x33333333)) + ((pairs >> 2) & np.uint32(0x33333333))
    octets = (nibbles + (nibbles >> 4)) & np.uint32(0x0F0F0F0F)
    halves = octets + (octets >> 8)
    counts: NDArray[np.uint32] = (halves + (halves >> 16)) & np.uint32(0x3F)
    return counts


def pack_bits(bits: ArrayLike, groups: int = 1) -> NDArray[np.uint32]:
    """Pack bits [..., C] (nonzero = 1) into words [..., groups * ceil((C / groups) / 32)] uint32.

    Raises:
        OpError: C does not split into `groups` equal groups.
    """
    array = np.asarray(bits)
    *outer, channels = array.shape
    if groups < 1 or channels % groups:
        raise OpError(f"{channels} channels do not split into {groups} groups; pass a divisor")
    per_group = channels // groups
    words = -(-per_group // WORD)
    wide = np.zeros((*outer, groups, words * WORD), dtype=np.uint8)
    wide[..., :per_group] = array.reshape(*outer, groups, per_group) != 0
    packed = np.packbits(wide, axis=-1, bitorder="little")
    # Little-endian by name, so that a big-endian host packs the same words.
    return packed.view("<u4").astype(np.uint32).reshape(*outer, groups * words)


def unpack_bits(words: NDArray[np.uint32], channels: int, groups: int = 1) -> NDArray[np.uint8]:
    """The inverse of `pack_bits`: words [..., groups * Cwg] -> bits [..., channels] of 0 and 1.

    Raises:
        OpError: the number of words does not fit `channels` and `groups`.
    """
    *outer, count = words.shape
    per_group = channels // groups
    wanted = groups * -(-per_group // WORD)
    if channels % groups or count != wanted:
        raise OpError(
            f"got {count} words for {channels} channels in {groups} groups; pass {wanted} words "
            "and a number of groups that divides the channels"
        )
    octets = np.ascontiguousarray(words, dtype="<u4").view(np.uint8)
    wide = np.unpackbits(octets.reshape(*outer, groups, -1), axis=-1, bitorder="little")
    return wide[..., :per_group].reshape(*outer, channels)


def pack_codes(codes: ArrayLike, bits: int, groups: int = 1) -> NDArray[np.uint32]:
    """Pack activation codes [..., C] in 0..2**bits-1 into words [..., bits * groups * Cwg] uint32.

    Word (plane * groups + group) * Cwg + w holds bit `plane` of the codes.

    Raises:
        OpError: a code is negative or needs more than `bits` bits.
    """
    array = np.asarray(codes)
    if array.size and not 0 <= array.min() <= array.max() < 2**bits:
        raise OpError(
            f"codes span {array.min()}..{array.max()}; pass codes in 0..{2**bits - 1} or more bits"
        )
    planes = [pack_bits((array.astype(np.uint8) >> p) & 1, groups) for p in range(bits)]
    return np.concatenate(planes, axis=-1)


def unpack_codes(
    words: NDArray[np.uint32], channels: int, bits: int, groups: int = 1
) -> NDArray[np.uint8]:
    """The inverse of `pack_codes`: words [..., bits * groups * Cwg] -> codes [..., channels]."""
    if words.shape[-1] % bits:
        raise OpError(f"{words.shape[-1]} words do not split into {bits} bit planes")
    planes = np.split(words, bits, axis=-1)
    codes = np.zeros((*words.shape[:-1], channels), dtype=np.uint8)
    for p, plane in enumerate(planes):
        codes |= unpack_bits(plane, channels, groups) << np.uint8(p)
    return codes


def pack_weight(weight: ArrayLike) -> NDArray[np.uint32]:
    """Pack +-1 weights [..., C / groups] into words [..., Cwg] uint32, bit 1 = +1.

    Raises:
        OpError: a weight is neither +1 nor -1.
    """
    array = np.asarray(weight)
    if not np.all(np.abs(array) == 1):
        raise OpError("a binary weight is neither +1 nor -1; binarise the weights before packing")
    return pack_bits(array > 0)


def unpack_weight(words: NDArray[np.uint32], channels: int) -> NDArray[np.int8]:
    """The inverse of `pack_weight`: words [..., Cwg] -> +-1 [..., channels] int8."""
    signs: NDArray[np.int8] = unpack_bits(words, channels).astype(np.int8) * 2 - 1
    return signs


def block_weight(weight: NDArray[Element], lanes: int) -> NDArray[Element]:
    """Canonical [O, KH, KW, Cwg] -> blocked [O / lanes, KH, KW, Cwg, lanes], contiguous.

    The lanes are consecutive output channels: output channel o is block o // lanes, lane
    o % lanes. Works for packed and for float weights.

    Raises:
        OpError: O is not a multiple of `lanes`.
    """
    out, *kernel = weight.shape
    if lanes < 1 or out % lanes:
        raise OpError(f"{out} output channels do not split into {lanes} lanes; pass a divisor")
    blocks = weight.reshape(out // lanes, lanes, *kernel)
    return np.ascontiguousarray(np.moveaxis(blocks, 1, -1))


NUMBERS = {"bf16": 2, "int8": 4}
"""Narrow numbers in a unit of 32 bits, by the kind of `insta.conv2d_narrow`."""

ZERO_CODE = 128
"""The code of an activation of 0 in kind "int8"."""

LARGEST_CODE = 127
"""The largest step of kind "int8", of activations and weights; the smallest is its negative."""


def narrow_weight(
    weight: NDArray[np.float32], kind: str, lanes: int
) -> tuple[NDArray[np.uint32], NDArray[np.int32], NDArray[np.float64]]:
    """Float weights for `insta.conv2d_narrow`: rows of taps in units of 32 bits.

    Args:
        weight: canonical [O, KH, KW, C] float32.
        kind: "bf16" (rounded to nearest, ties to even) or "int8" (the largest of an output channel
            is 127 or -127).
        lanes: L, a divisor of O.

    Returns:
        The weight [O / L, KH, 1, U, L] uint32; for "int8" also the sum of each output channel's
        integers [O] and the weight that one step stands for [O], for "bf16" zeros and ones.
    """
    out, rows = weight.shape[:2]
    run = weight.reshape(out, rows, -1)
    numbers = NUMBERS[kind]
    steps = np.ones(out)
    if kind == "bf16":
        codes: NDArray[Any] = to_bf16(run)
    else:
        steps = np.maximum(np.abs(weight).reshape(out, -1).max(axis=1) / LARGEST_CODE, 1e-30)
        codes = np.rint(run / steps[:, None, None]).astype(np.int8)
    sums = np.zeros(out, np.int32)
    if kind == "int8":
        sums = codes.reshape(out, -1).sum(axis=1, dtype=np.int32)
    filled = np.pad(codes, ((0, 0), (0, 0), (0, -run.shape[2] % numbers)))
    units = np.ascontiguousarray(filled).view("<u4").astype(np.uint32)
    return block_weight(units[:, :, None], lanes), sums, steps


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def block_pieces(
    weight: NDArray[np.uint32], dtype: str, lanes: int, channels: int
) -> NDArray[np.generic]:
    """Canonical [O, KH, KW, Cwg] uint32 -> [O / lanes, KH, B, KW, lanes] in narrower pieces.

    Piece i of a word is its bits P i .. P i + P - 1; B counts the pieces of a tap's words, or only
    those that have channels where a tap has less than a word.

    Args:
        weight: canonical packed weight.
        dtype: "uint8" or "uint16", P = 8 or 16 bits.
        lanes: output channels of a block.
        channels: input channels of a tap.

    Raises:
        OpError: O is not a multiple of `lanes`.
    """
    kind = np.dtype(dtype)
    pieces = np.ascontiguousarray(weight, "<u4").view(kind.newbyteorder("<")).astype(kind)
    if channels < WORD:
        pieces = pieces[..., : -(-channels // (8 * kind.itemsize))]
    return np.ascontiguousarray(block_weight(pieces, lanes).swapaxes(2, 3))


def block_nibbles(weight: NDArray[np.uint32], lanes: int, channels: int) -> NDArray[np.uint8]:
    """Canonical [O, KH, KW, Cwg] uint32 -> [O / lanes, KH, KW, nibbles, lanes] uint8, below 16.

    Nibble i of a tap is bits 4 (i % 8) .. 4 (i % 8) + 3 of its word i // 8; a tap has as many as
    its channels fill.

    Args:
        weight: canonical packed weight.
        lanes: output channels of a block.
        channels: input channels of a tap.

    Raises:
        OpError: O is not a multiple of `lanes`.
    """
    octets = np.ascontiguousarray(weight, "<u4").view(np.uint8)
    halves = np.stack([octets & 15, octets >> 4], axis=-1).reshape(*octets.shape[:-1], -1)
    return block_weight(halves[..., : -(-channels // 4)], lanes)


def tile_weight(weight: NDArray[np.uint32], channels: int) -> NDArray[np.uint32]:
    """Canonical [O, KH, KW, Cw] -> [O / 16, KH, U, 16, 2] for `insta.bitserial_conv2d_signs`.

    Bit 4 (o % 16) + k % 4 of the 64 bits at [o // 16, ky, u, k // 4] is that of tap byte 64 u + k,
    where channel c of tap kx is tap byte 32 Cw kx + c; where there is no such channel, it is 0.

    Args:
        weight: canonical packed weight.
        channels: input channels of a tap; a multiple of 4.

    Raises:
        OpError: O is not a multiple of 16, or `channels` not one of 4.
    """
    out, kernel_h = weight.shape[:2]
    if out % 16 or channels % 4:
        raise OpError(
            f"{out} output and {channels} input channels do not fill tiles; pass multiples of 16 "
            "and of 4"
        )
    bits = unpack_bits(np.ascontiguousarray(weight), weight.shape[3] * WORD)
    run = bits.reshape(out, kernel_h, -1)
    run = np.pad(run, ((0, 0), (0, 0), (0, -run.shape[2] % 64)))
    rows = run.reshape(out // 16, 16, kernel_h, -1, 16, 4)
    ordered = rows.transpose(0, 2, 3, 4, 1, 5)  # the channel beside the four bytes of a lane
    return pack_bits(ordered.reshape(*ordered.shape[:4], 64))


def tile_bytes(tiled: NDArray[np.uint32], channels: int, kernel_width: int) -> NDArray[np.int8]:
    """The bits of `tile_weight` as bytes: [O / 16, KH, U, 16, 2] -> [O / 16, KH, U, 16, 64].

    Bit j of the 64 becomes byte j: +1, -1, or 0 where there is no such channel or tap.
    """
    signs = unpack_bits(tiled, 64).astype(np.int8) * 2 - 1
    units, rows = tiled.shape[2:4]
    tap = np.arange(units * rows).reshape(units, rows, 1) * 4  # the first of the four of a lane
    depth = -(-channels // WORD) * WORD
    signs *= (tap < kernel_width * depth) & (tap % depth < channels)
    return signs


def untile_weight(
    tiled: NDArray[np.uint32], channels: int, kernel_width: int
) -> NDArray[np.uint32]:
    """The inverse of `tile_weight`: [O / 16, KH, U, 16, 2] -> canonical [O, KH, KW, Cw]."""
    blocks, kernel_h = tiled.shape[:2]
    bits = unpack_bits(tiled, 64).reshape(*tiled.shape[:4], 16, 4)
    run = bits.transpose(0, 4, 1, 2, 3, 5).reshape(blocks * 16, kernel_h, -1)
    depth = -(-channels // WORD) * WORD
    taps = run[:, :, : kernel_width * depth].reshape(blocks * 16, kernel_h, kernel_width, depth)
    return pack_bits(taps)


def run_weight(weight: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Canonical [O, KH, KW, Cw] -> [ceil(O / 8), KH, S, 8, 4] of `insta.bitserial_conv2d_runs`.

    Word q of the run of a kernel row, that of tap q // Cw, is at
    [o // 8, ky, q // 4, o % 8, q % 4]; what is behind the last output channel and the last word is
    0. S = ceil(KW * Cw / 4).
    """
    out, kernel_h = weight.shape[:2]
    run = weight.reshape(out, kernel_h, -1)
    run = np.pad(run, ((0, -out % 8), (0, 0), (0, -run.shape[2] % 4)))
    steps = run.reshape(-1, 8, kernel_h, run.shape[2] // 4, 4)
    return np.ascontiguousarray(steps.transpose(0, 2, 3, 1, 4))


def run_base(
    base: NDArray[np.int32], weight: NDArray[np.uint32], bits: int, encoding: str
) -> NDArray[np.int32]:
    """The border table of `insta.bitserial_conv2d_runs`, from that of `border_tables`.

    Args:
        base: [RC, CC, O].
        weight: canonical packed weight [O, KH, KW, Cw].
        bits: bits of an activation.
        encoding: "bipolar" or "unsigned".
    """
    ones = popcount(weight).sum(axis=(1, 2, 3), dtype=np.int64)
    alpha = 2 if encoding == "bipolar" else 1
    result: NDArray[np.int32] = (base - alpha * (2**bits - 1) * ones).astype(np.int32)
    return result


def unrun_weight(
    runs: NDArray[np.uint32], out_channels: int, kernel_width: int, words: int
) -> NDArray[np.uint32]:
    """The inverse of `run_weight`: -> canonical [O, KH, KW, Cw], Cw the words of a tap."""
    blocks, kernel_h, steps = runs.shape[:3]
    run = runs.transpose(0, 3, 1, 2, 4).reshape(blocks * 8, kernel_h, steps * 4)
    taps = run[:out_channels, :, : kernel_width * words]
    return np.ascontiguousarray(taps.reshape(out_channels, kernel_h, kernel_width, words))


def unblock_weight(weight: NDArray[Element]) -> NDArray[Element]:
    """The inverse of `block_weight`: [O / lanes, KH, KW, Cwg, lanes] -> [O, KH, KW, Cwg]."""
    blocks = np.moveaxis(weight, -1, 1)
    return np.ascontiguousarray(blocks.reshape(-1, *blocks.shape[2:]))


def border_tables(
    weight: NDArray[np.uint32],
    spatial: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    in_channels_per_group: int,
    bits: int,
    encoding: str,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """The border correction of `bitserial_conv2d_blocked`, whose docstring derives it.

    Args:
        weight: canonical packed weight [O, KH, KW, Cwg] uint32.
        spatial: height and width of the image without padding.
        strides: vertical, horizontal.
        padding: top, left, bottom, right.
        dilation: vertical, horizontal.
        in_channels_per_group: C / groups.
        bits: bits of an activation.
        encoding: "bipolar" or "unsigned".

    Returns:
        base [RC, CC, O], row_class [OH] and col_class [OW], all int32. Classes are numbered in the
        order in which they first appear, from the top and from the left.

    Raises:
        OpError: a weight bit beyond the last channel is set, or the kernel exceeds the image.
    """
    used = pack_bits(np.ones(in_channels_per_group, dtype=np.uint8))
    if weight.shape[-1] != used.size or np.any(weight & ~used):
        raise OpError(
            f"the packed weight has bits beyond its {in_channels_per_group} channels a group; "
            "pack it with pack_weight, which leaves them 0"
        )
    _, kernel_h, kernel_w, _ = weight.shape
    top, left, bottom, right = padding
    rows = _valid_taps(spatial[0], kernel_h, strides[0], (top, bottom), dilation[0])
    columns = _valid_taps(spatial[1], kernel_w, strides[1], (left, right), dilation[1])
    levels = 2**bits - 1
    ones = popcount(weight).sum(axis=-1, dtype=np.int64)
    total = ones.sum(axis=(1, 2))
    if encoding == "unsigned":
        base = levels * total[None, None, :]
        row_class, col_class = (np.zeros(len(v), dtype=np.int32) for v in (rows, columns))
        return base.astype(np.int32), row_class, col_class
    row_masks, row_class = _classes(rows)
    col_masks, col_class = _classes(columns)
    inside = np.einsum("rk,oks->ros", row_masks, ones)
    padded_ones = total - np.einsum("cs,ros->rco", col_masks, inside)
    valid = np.outer(row_masks.sum(axis=1), col_masks.sum(axis=1))
    base = levels * (in_channels_per_group * valid[..., None] + 2 * padded_ones)
    return base.astype(np.int32), row_class, col_class


def _valid_taps(
    size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int
) -> NDArray[np.int64]:
    """[outputs, kernel] of 0 and 1: which taps of every output lie inside the image."""
    before, after = padding
    reach = dilation * (kernel - 1) + 1
    if size + before + after < reach:
        raise OpError(
            f"the kernel reaches over {reach} pixels, but the padded image has "
            f"{size + before + after}; pad more or use a smaller kernel or dilation"
        )
    starts = np.arange((size + before + after - reach) // stride + 1) * stride - before
    taps = starts[:, None] + np.arange(kernel) * dilation
    return ((taps >= 0) & (taps < size)).astype(np.int64)


def _classes(masks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Distinct rows in order of first appearance [K, kernel], and the class of every row."""
    _, first, inverse = np.unique(masks, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.argsort(order)
    return masks[first[order]], rank[inverse.reshape(-1)].astype(np.int32)
