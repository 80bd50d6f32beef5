"""NEON: how weights are laid out, which tiles are chosen, and that sums stay in registers."""

from __future__ import annotations

import re

import pytest

from tests.support.schedule_nets import legalise, module, only_primfunc
from tvm_insta import ops
from tvm_insta.codegen import raw
from tvm_insta.schedules import Blocking, back_end, schedule_module
from tvm_insta.schedules.base import BinarySum
from tvm_insta.target import parse
from tvm_insta.tuning.assembly import hot_loop

CORES = {name: parse(name).tvm for name in ("cortex-a53", "cortex-a55", "cortex-a72", "armv7")}
DOT = {name: parse(name).tvm for name in ("cortex-a76", "neoverse-n1")}


@pytest.mark.parametrize(
    ("name", "out", "bits", "expected"),
    [
        ("cortex-a72", 64, 1, Blocking("uint8", 64)),
        ("cortex-a72", 48, 1, Blocking("uint8", 48)),
        ("cortex-a72", 32, 4, Blocking("uint8", 32)),
        ("cortex-a72", 24, 1, None),
        ("cortex-a55", 64, 1, Blocking("uint8", 64)),  # dot products are slower there
        ("cortex-a76", 64, 1, Blocking("uint32", 16)),
        ("cortex-a76", 64, 2, Blocking("uint8", 64)),
        ("armv7", 64, 1, Blocking("uint16", 32)),
        ("armv7", 8, 1, Blocking("uint16", 8)),
        ("armv7", 64, 2, None),
        ("avx2", 64, 1, Blocking("uint8", 64, counts="nibbles")),
        ("avx2", 12, 1, None),
        ("avx512", 64, 1, None),
    ],
)
def test_layouts(name, out, bits, expected):
    assert back_end(parse(name).tvm).binary_blocking(out, bits) == expected


def conv(target, side, channels):
    """A bare 3x3 layer with the weight as the target wants it; returns (assembly, record)."""
    own = back_end(target).binary_blocking(channels, 1)
    words = channels // 32
    taps = {
        "uint8": [4 * words, 3],
        "uint16": [2 * words, 3],
        "uint32": [3, words],
    }[own.dtype]
    specs = [
        ("data", [1, side + 2, side + 2, words], "uint32"),
        ("weight", [channels // own.lanes, 3, *taps, own.lanes], own.dtype),
        ("base", [3, 3, channels], "int32"),
        ("row_class", [side], "int32"),
        ("col_class", [side], "int32"),
    ]
    mod = module(specs, lambda emit, *args: emit(ops.bitserial_conv2d_blocked(*args, alpha=1)))
    result, (record,) = schedule_module(legalise(mod), target, lanes=4)
    # As in an artefact, where small local arrays are kept on the stack and so in registers.
    return raw.assembly({"kernel": only_primfunc(result)}, target), record


@pytest.mark.parametrize("name", [*CORES, *DOT])
def test_uneven_rows_and_what_adds(name):
    """A row of 7 is cut into 4 and 3, and each target adds with its own instruction."""
    target = (CORES | DOT)[name]
    asm, record = conv(target, 7, 64)
    assert record.reason == ""
    assert record.tiles.width_tile == (2 if name == "armv7" else 4)
    adds = {
        BinarySum.BYTES: r"\busqadd\s",
        BinarySum.PAIRS: r"\bvpadal\.u8\s",
        BinarySum.DOT: r"\budot\s",
    }
    counts = {kind: len(re.findall(pattern, asm)) for kind, pattern in adds.items()}
    kind = back_end(target).family.binary
    assert counts[kind] > 0 and sum(counts.values()) == counts[kind]


@pytest.mark.parametrize("name", ["cortex-a72", "cortex-a76"])
def test_hardly_anything_goes_to_the_stack(name):
    """In the inner loop; plain additions instead, which LLVM regroups, reload 18 for 100 counts."""
    asm, _ = conv((CORES | DOT)[name], 14, 64)
    loop = hot_loop(asm, "insta_bconv")
    counts = loop.macs // 128
    spilled = [x for x in loop.lines if re.search(r"ld[rp]\s+q\d+,.* \[sp", x)]
    assert len(spilled) < 0.06 * counts, f"{len(spilled)} reloads for {counts} counts"


def test_tiles_are_as_even_as_they_can_be():
    target = CORES["cortex-a72"]
    _, record = conv(target, 5, 64)
    assert (record.tiles.width_tile, record.tiles.out_tile) == (3, 4)  # 5 = 3 + 2
