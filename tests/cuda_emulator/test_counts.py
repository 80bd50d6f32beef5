"""What is counted of a block: instructions by unit, passes of shared memory, sectors."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.cuda_emulator.harness import assembly, launch, require_compiler
from tvm_insta import cuda_emulator
from tvm_insta.cuda_emulator import Options, Unit
from tvm_insta.cuda_emulator.ptx import emit, translate  # noqa: F401  (registers the rules)
from tvm_insta.cuda_emulator.ptx.classes import Cost, cost_of

REGISTERS = ".reg .b64 %to; .reg .b32 %t, %v, %w; .reg .pred %p;"
ROOM = ".shared .align 16 .b8 room[8192];"
OWN = "mov.u32 %t, %tid.x; mul.wide.u32 %to, %t, 4; add.s64 %to, %out, %to;"


def counted(body, *, out=32, block=32, grid=1, more=""):
    """The counts of a kernel, which is built to count."""
    require_compiler()
    cuda_emulator.start("sm_90").take_counts()
    ptx = assembly(body, REGISTERS, more=ROOM + more) + f"// counts {block} {grid}\n"
    options = Options(counts=True)
    launch(ptx, [np.zeros(out, np.uint32)], block=(block, 1, 1), grid=(grid, 1, 1), options=options)
    (found,) = cuda_emulator.start("sm_90").take_counts()
    return found


@pytest.mark.parametrize(
    ("stride", "bytes_", "wavefronts", "accesses"),
    [
        (4, 4, 1, 1),  # neighbours
        (0, 4, 1, 1),  # one word for all: no conflict
        (8, 4, 2, 1),
        (128, 4, 32, 1),  # one bank
        (132, 4, 1, 1),  # rows with a word of padding
        (2, 2, 1, 1),  # two lanes in a word
        (8, 8, 2, 2),  # by halves of a warp
        (16, 16, 4, 4),  # by quarters
        (128, 16, 32, 4),  # rows of 32 words: quarters, eight lanes to a bank each
        (144, 16, 4, 4),  # with four words of padding
    ],
)
def test_passes_through_shared_memory(stride, bytes_, wavefronts, accesses):
    load = {2: "ld.shared.u16 %v, [%v]", 4: "ld.shared.u32 %v, [%v]"}.get(bytes_)
    load = load or f"ld.shared.v{bytes_ // 4}.u32 {{{', '.join(['%w'] * (bytes_ // 4))}}}, [%v]"
    body = f"mov.u32 %t, %tid.x; mov.u32 %v, room; mad.lo.u32 %v, %t, {stride}, %v; {load};"
    found = counted(body)
    assert (found.shared_wavefronts, found.shared_accesses) == (wavefronts, accesses)
    assert (found.load_sectors, found.store_sectors) == (0, 0)


@pytest.mark.parametrize(
    ("stride", "loads", "touched"), [(4, 4, 4), (8, 8, 8), (32, 32, 32), (0, 1, 1)]
)
def test_sectors_of_global_memory(stride, loads, touched):
    body = f"mov.u32 %t, %tid.x; mul.wide.u32 %to, %t, {stride}; add.s64 %to, %out, %to;"
    found = counted(body + "ld.global.u32 %v, [%to]; ld.global.u32 %v, [%to];", out=512)
    assert (found.load_sectors, found.touched_sectors) == (2 * loads, touched)
    assert found.global_bytes == 2 * 32 * 4 and found.store_sectors == 0


def test_instructions_by_unit():
    """Loops count as often as they run, guarded instructions whether or not they do something."""
    body = (
        OWN + "mov.u32 %v, 0;\nL: popc.b32 %w, %v; add.u32 %v, %v, 1; setp.lt.u32 %p, %v, 5;"
        "@%p bra L; @%p add.u32 %v, %v, 1; st.global.u32 [%to], %v;"
    )
    found = counted(body, out=64, block=64)
    warps = 2
    assert found.instructions[Unit.POPCOUNT] == warps * 5
    assert found.instructions[Unit.CONTROL] == warps * 5
    assert found.instructions[Unit.MEMORY] == warps * 1
    # mul.wide, add of 64 bits, five times add and setp, one that is guarded
    assert found.instructions[Unit.INTEGER] == warps * (1 + 2 + 10 + 1)
    assert found.instructions[Unit.FLOAT] == 0
    assert found.store_sectors == 8
    assert (found.threads, found.blocks, found.shared_bytes) == (64, 1, 0)


def test_lanes_that_part_count_once():
    body = OWN + "setp.eq.u32 %p, %t, 3; @!%p bra E; popc.b32 %v, %t; popc.b32 %v, %v;\nE:"
    assert counted(body).instructions[Unit.POPCOUNT] == 2


def test_the_block_in_the_middle_is_counted():
    body = (
        "mov.u32 %v, %ctaid.x; setp.ne.u32 %p, %v, 2; @%p bra E; popc.b32 %w, %v; popc.b32 %w, %w;"
        "\nE:"
    )
    assert counted(body, grid=5).instructions[Unit.POPCOUNT] == 2
    assert counted(body, grid=3).instructions[Unit.POPCOUNT] == 0


@pytest.mark.parametrize(
    ("opcode", "cost"),
    [
        ("mov.u32", Cost(Unit.NONE)),
        ("ld.param.u64", Cost(Unit.NONE)),
        ("ld.global.nc.v4.f32", Cost(Unit.MEMORY)),
        ("cp.async.cg.shared.global", Cost(Unit.MEMORY)),
        ("cp.async.wait_group", Cost(Unit.CONTROL)),
        ("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc", Cost(Unit.MATRIX_BITS)),
        ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", Cost(Unit.MATRIX_BYTES)),
        ("popc.b32", Cost(Unit.POPCOUNT)),
        ("add.s32", Cost(Unit.INTEGER)),
        ("add.s64", Cost(Unit.INTEGER, 2)),
        ("setp.lt.and.s64", Cost(Unit.INTEGER, 2)),
        ("mad.lo.s32", Cost(Unit.INTEGER)),
        ("rem.u32", Cost(Unit.INTEGER, 20)),
        ("fma.rn.f32", Cost(Unit.FLOAT)),
        ("setp.lt.f32", Cost(Unit.INTEGER)),
        ("max.f32", Cost(Unit.INTEGER)),
        ("add.rn.f64", Cost(Unit.DOUBLE)),
        ("cvt.rn.f32.s32", Cost(Unit.CONVERT)),
        ("cvt.s64.s32", Cost(Unit.INTEGER)),
        ("bar.sync", Cost(Unit.CONTROL)),
        ("shfl.sync.bfly.b32", Cost(Unit.WARP)),
    ],
)
def test_costs(opcode, cost):
    assert cost_of(opcode) == cost


def test_every_instruction_has_a_cost():
    for name in emit._RULES:
        assert cost_of(f"{name}.b32").count > 0


def test_the_units_are_those_of_the_engine():
    text = (cuda_emulator.build.NATIVE / "device.h").read_text("utf-8")
    assert int(re.search(r"kUnits = (\d+)", text)[1]) == len(Unit)
    assert [unit.value for unit in Unit] == list(range(len(Unit)))
